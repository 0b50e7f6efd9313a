"""Tests of error messages of whole runs: one message, no traceback, exit status 1."""

import shlex
import shutil
from pathlib import Path

import pytest
from omegaconf import OmegaConf, open_dict
from PIL import Image

from helpers.processes import Processes
from helpers.program import ROOT, TINY, run_command, run_program
from helpers.trees import write_mvtec_tree
from moleflow.experiment.build import build_continual_trainer
from moleflow.experiment.compose import compose_config
from moleflow.utils.errors import UserError


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return write_mvtec_tree(tmp_path / "tree", ("bottle", "screw"))


def error_of(tree: Path, *overrides: str) -> str:
    """Return the message of the error that ends a run before training."""
    folder = tree.parent / "run"
    with pytest.raises(UserError) as caught:
        run_program(["dataset=folder", f"dataset.root={tree}", *TINY, *overrides], folder)
    assert not (folder / "model").exists()
    return str(caught.value)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["dataset.root=/no/such/folder"], ["/no/such/folder", "dataset.root"]),
        (["dataset.root=null"], ["dataset.root=/path"]),
        (["dataset.categories=[botle]"], ["botle", "bottle", "dataset=folder dataset.categories=null"]),
        (["scenario.split=3-1"], ["3", "2"]),
        (["scenario.split=two"], ["two", "10-5"]),
        (["model.scale_context_kernel=4"], ["scale_context_kernel=4", "3 or 5"]),
        (["model.spatial_context_kernel=2"], ["spatial_context_kernel=2", "1 or 3"]),
        (["backbone.dim=30"], ["backbone.dim=30", "divisible by 4", "32"]),
        (["scoring.aggregation=topk"], ["topk", "top_k"]),
        (["scoring.top_k=65"], ["top_k=65", "64"]),
        (["router.rule=shared"], ["router.rule=shared", "shared_covariance"]),
        (["model.adapter=afine_norm"], ["model.adapter=afine_norm", "'affine_norm'"]),
        (["loss.tail_top_k_ratio=0"], ["tail_top_k_ratio"]),
        (["epochs=0"], ["epochs=0"]),
        (["patch_share=0"], ["patch_share=0 must"]),
        (["patch_share=0.5"], ["patch_share=0.5", "model.scale_context_kernel=5", "patch_share=null"]),
        (["optimizer.lr=-1"], ["optimizer.lr=-1"]),
        (["optimizer.lr=fast"], ["optimizer.lr=fast must be a number."]),
        (["optimizer.lr=true"], ["optimizer.lr=true must be a number."]),
        (["optimizer.lr={a: 1}"], ["optimizer.lr={'a': 1} must be a number."]),
        (["optimizer.algorithm.weight_decay=abc"], ["optimizer.algorithm", "timm.optim.AdamP"]),
        (["optimizer.algorithm.delta=abc"], ["optimizer.algorithm"]),
        (["features.cache_dir=3"], ["features.cache_dir=3 must be a text or null."]),
        (["seed=abc"], ["seed=abc must be a whole number."]),
        (["seed=1.5"], ["seed=1.5 must be a whole number."]),
        (["seed=-1"], ["seed=-1 must be"]),
        (["progress=maybe"], ["progress=maybe must be true or false."]),
        (["router.oracle=maybe"], ["router.oracle=maybe must be true or false."]),
        (["model.lora_rank=abc"], ["model.lora_rank=abc must be a whole number."]),
        (["loss.tail_weight=x"], ["loss.tail_weight=x must be a number."]),
        (["loss.tail_weight=-1"], ["loss.tail_weight=-1 must lie in [0, 2]."]),
        (["transform.mode=stretch"], ["transform.mode=stretch", "squash"]),
        (["transform.size=big"], ["transform.size=big must be a whole number or a list of whole numbers."]),
        (["scoring.pool=4"], ["scoring.pool=4"]),
        (["scoring.sigma=-1"], ["scoring.sigma=-1"]),
        (["features.num_workers=-1"], ["features.num_workers=-1 must be"]),
        (["backbone.name=5"], ["backbone.name=5 must be"]),
        (["backbone.name=resnet19"], ["resnet19", "resnet18"]),
        (["backbone.layers=[layer9]"], ["layer9", "layer2"]),
        (["backbone.pretrained=true", "backbone.weights=/no/file.pth"], ["/no/file.pth"]),
        (["+model.lora_rnk=3"], ["lora_rnk", "lora_rank"]),
        (["masks=croped"], ["masks=croped", "cropped"]),
        (["scoring.subtract_median=2"], ["scoring.subtract_median=2 must"]),
        (["+trainer.max_epochs=3"], ["trainer.max_epochs cannot be set", "Set epochs instead."]),
        (["+trainer.num_sanity_val_steps=3"], ["trainer.num_sanity_val_steps cannot be set", "Leave it out."]),
        (["+trainer.presicion=32"], ["trainer.presicion is unknown.", "'precision'"]),
        (["+trainer.strategy=ddp_spawn"], ["trainer.strategy=ddp_spawn", "ddp_find_unused_parameters_true"]),
        (["trainer.precision=bf16-true"], ["trainer.precision=bf16-true", "32-true", "bf16-mixed"]),
        (["trainer.precision=16-true"], ["trainer.precision=16-true", "32-true", "bf16-mixed"]),
        (["loss.tail_weight=70"], ["loss.tail_weight=70 must lie in [0, 2]."]),
        (["transform.size=10"], ["transform.size=[10, 10] is too small", "Use transform.size=32 or more."]),
        (["+per_category.screw.transform.size=10"], ["per_category.screw.transform.size=[10, 10] is too small"]),
        (["objective=pixl_ap"], ["objective=pixl_ap", "'pixel_ap'"]),
    ],
)
def test_wrong_value_is_named_with_the_allowed_ones(tree: Path, overrides: list[str], words: list[str]) -> None:
    message = error_of(tree, *overrides)
    assert all(word in message for word in words), message


def test_truncated_image(tree: Path) -> None:
    image = tree / "screw" / "test" / "good" / "000.png"
    image.write_bytes(image.read_bytes()[: image.stat().st_size // 2])
    assert str(image) in error_of(tree)


def test_mask_of_another_size(tree: Path) -> None:
    mask = next((tree / "bottle" / "ground_truth").rglob("*.png"))
    Image.new("L", (10, 10), 255).save(mask)
    assert mask.name in error_of(tree)


def test_mask_without_image(tree: Path) -> None:
    mask = next((tree / "bottle" / "ground_truth").rglob("*.png"))
    shutil.copy(mask, mask.with_name("999_mask.png"))
    assert "999" in error_of(tree)


def test_category_without_training_images(tree: Path) -> None:
    for image in (tree / "bottle" / "train" / "good").iterdir():
        image.unlink()
    assert "bottle" in error_of(tree)


@pytest.mark.parametrize(
    ("mode", "key"), [((), "hydra.run.dir"), (("-m", "seed=0,1"), "hydra.sweep.dir")], ids=["run", "sweep"]
)
def test_uncreatable_folder_is_one_message(mode: tuple[str, ...], key: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    folder = tmp_path / "file" / "run"
    process = run_command("-m", "moleflow", "train", *mode, "dataset=mvtec", f"{key}={folder}")
    assert process.returncode == 1
    assert str(folder) in process.stderr
    assert "Not a directory" in process.stderr
    assert f"{key}=" in process.stderr
    assert len(process.stderr.splitlines()) == 1, process.stderr


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="needs a folder that root cannot write to")
def test_unwritable_sweep_folder_is_one_message() -> None:
    process = run_command("-m", "moleflow", "train", "-m", "seed=0,1", "dataset=mvtec", "hydra.sweep.dir=/proc")
    assert process.returncode == 1
    assert "/proc cannot be written to" in process.stderr
    assert len(process.stderr.splitlines()) == 1, process.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["+experiment=quickstrt"], ["Did you mean 'quickstart'"]),
        (["optimizer.learning_rate=1"], ["optimizer.learning_rate", "optimizer.lr"]),
        (["per_category.hide.epochs=3"], ["write +per_category.hide.epochs=3, with the plus"]),
        (["dataset=mvtek"], ["Did you mean 'mvtec'"]),
        (["scoring.centre=1"], ["Use scoring.subtract_median instead."]),
        (["router=own"], ["Use router=per_expert_covariance instead."]),
        (["dataset=mvtec", "dataset.root=/no/such/folder"], ["/no/such/folder"]),
    ],
)
def test_command_line_error_is_one_message(
    arguments: list[str], words: list[str], processes: Processes, tmp_path: Path
) -> None:
    process = processes.run(*arguments, f"hydra.run.dir={tmp_path}")
    assert process.returncode == 1
    assert all(word in process.stderr for word in words), process.stderr
    assert "Traceback" not in process.stderr
    assert "HYDRA_FULL_ERROR" not in process.stderr
    assert len(process.stderr.splitlines()) == 1, process.stderr


@pytest.mark.parametrize("key", ["dataset.root", "hydra.run.dir"])
@pytest.mark.parametrize("name", ["Prüfling (1)", "나사", "a=b,c=d", 'it\'s "new"', "x(1)", "back\\slash (1)"])
def test_value_that_needs_quotes_is_one_message_with_a_command_that_works(
    key: str, name: str, processes: Processes, tmp_path: Path
) -> None:
    process = processes.run(f"{key}={tmp_path}/{name}", cwd=tmp_path)
    assert process.returncode == 1
    assert len(process.stderr.splitlines()) == 1, process.stderr
    (argument,) = shlex.split(process.stderr.partition(" Write: ")[2])
    config = compose_config([argument]) if key == "hydra.run.dir" else compose_config([argument]).dataset
    assert (config.hydra.run.dir if key == "hydra.run.dir" else config.root) == f"{tmp_path}/{name}"


def test_quoted_values_run(tmp_path: Path, processes: Processes) -> None:
    tree = write_mvtec_tree(tmp_path / "Prüfling (1)=가", ("bottle",), train=3, good=1, defect=1)
    tiny = [key for key in TINY if not key.startswith("model.")]
    overrides = ["dataset=folder", f'dataset.root="{tree}"', *tiny, "model=gaussian", f'hydra.run.dir="{tmp_path}/a=b"']
    process = processes.run(*overrides)
    assert process.returncode == 0, process.stderr
    assert (tmp_path / "a=b" / "metrics.json").is_file()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["dataset.categories=[가,b]"], ["'dataset.categories=[\"가\",b]'"]),
        (["-m", "dataset.root=/a(1),/b"], ["'dataset.root=\"/a(1)\",/b'"]),
        (["+per_category.가.epochs=3"], ["a key has ASCII letters", "+experiment=mine"]),
        (["foo"], ["foo is not an override. Write key=value."]),
    ],
)
def test_other_override_that_cannot_be_parsed_is_one_message(
    arguments: list[str], words: list[str], processes: Processes, tmp_path: Path
) -> None:
    process = processes.run(*arguments, cwd=tmp_path)
    assert process.returncode == 1
    assert len(process.stderr.splitlines()) == 1, process.stderr
    assert all(word in process.stderr for word in words), process.stderr


def test_settings_without_effect_on_a_closed_form_model_are_named(
    tree: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tiny = [key for key in TINY if not key.startswith(("model.", "batch_size"))]
    overrides = ["dataset=folder", f"dataset.root={tree}", *tiny, "model=patchcore", "+per_category.screw.epochs=3"]
    build_from_command(overrides, tmp_path / "run")
    assert (
        "epochs, per_category.screw.epochs have no effect: this model is fitted in closed form, without gradient steps."
        in caplog.messages
    )
    caplog.clear()
    build_from_command(["dataset=folder", f"dataset.root={tree}", *TINY], tmp_path / "run")
    assert not caplog.messages


def build_from_command(overrides: list[str], folder: Path) -> None:
    """Build the continual trainer of a command."""
    config = compose_config([*overrides, f"hydra.run.dir={folder}"])
    with open_dict(config):
        del config["hydra"]
        config.logger = {}  # its folder is that of the command
    settings = OmegaConf.to_container(config, resolve=True)
    build_continual_trainer(config, settings, folder, overrides)


@pytest.mark.parametrize("model", ["padim", "mixture"])
def test_closed_form_model_of_equal_images_names_the_images(model: str, tmp_path: Path) -> None:
    tree = write_mvtec_tree(tmp_path / "tree", ("bottle",), train=4)
    first, *others = sorted((tree / "bottle/train/good").iterdir())
    for number, image in enumerate(others):  # equal pixels in files of different content
        image.write_bytes(first.read_bytes() + bytes([number]))
    tiny = [key for key in TINY if not key.startswith("model.")]
    with pytest.raises(UserError) as caught:
        run_program(["dataset=folder", f"dataset.root={tree}", *tiny, f"model={model}"], tmp_path / "run")
    assert "its training images vary too little: they are copies of one image" in str(caught.value)
    assert "optimizer.lr" not in str(caught.value)


def test_former_value_has_its_replacement_after_the_error(tree: Path, processes: Processes, tmp_path: Path) -> None:
    overrides = ["dataset=folder", f"dataset.root={tree}", *TINY, "model.adapter=whitening"]
    process = processes.run(*overrides, f"hydra.run.dir={tmp_path / 'run'}")
    assert process.returncode == 1
    assert "model.adapter=whitening is unknown. Did you mean 'closed_form_whitening'? Choose one of: " in process.stderr
    assert process.stderr.endswith("\nmodel.adapter=whitening is unknown. Use model.adapter=affine_norm instead.\n")
    assert "Traceback" not in process.stderr


def test_rejected_command_leaves_no_folder_and_can_be_corrected(processes: Processes, tmp_path: Path) -> None:
    root = write_mvtec_tree(tmp_path / "tree", ("bottle",))
    arguments = ["dataset=folder", "model=gaussian", *(key for key in TINY if not key.startswith("model."))]
    for wrong in (f"dataset.root={tmp_path / 'tre'}", "batch_size=0"):
        rejected = processes.run(*arguments, f"dataset.root={root}", wrong, cwd=tmp_path)
        assert rejected.returncode == 1
        assert not list((tmp_path / "runs").iterdir())
    assert processes.run(*arguments, f"dataset.root={root}", cwd=tmp_path).returncode == 0
    missing = processes.run(*arguments, f"dataset.root={tmp_path / 'tre'}", cwd=tmp_path)
    assert missing.returncode == 0
    assert f"not compared with those of the run: dataset.root={tmp_path / 'tre'} does not exist" in missing.stdout
    second = write_mvtec_tree(tmp_path / "second", ("bottle",), train=7)
    other = processes.run(*arguments, f"dataset.root={second}", cwd=tmp_path)
    assert other.returncode == 1
    assert "name=" in other.stderr  # the remedy for a second data set
    assert list(tmp_path.glob("runs/*/*/seed0/metrics.json"))  # the finished run stays


def test_automatic_run_folder_raises_no_warning(processes: Processes, tmp_path: Path) -> None:
    arguments = ("dataset=mvtec", "dataset.root=/no/such/folder", "seed=3")
    process = run_command(str(ROOT / "train.py"), *arguments, cwd=tmp_path)
    assert "/no/such/folder" in process.stderr
    assert "Warning" not in process.stderr, process.stderr
    fork = processes.run(*arguments, cwd=tmp_path)
    assert (fork.returncode, fork.stdout, fork.stderr) == (process.returncode, process.stdout, process.stderr)
