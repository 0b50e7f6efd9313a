"""Tests of error messages of whole runs: one message, no traceback, exit status 1."""

import shutil
from pathlib import Path

import pytest
from PIL import Image

from helpers.processes import Processes
from helpers.program import ROOT, TINY, run_command, run_program
from helpers.trees import write_mvtec_tree
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
        (["loss.tail_weight=-1"], ["loss.tail_weight=-1 must be"]),
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


def test_former_value_has_its_replacement_after_the_error(tree: Path, processes: Processes, tmp_path: Path) -> None:
    overrides = ["dataset=folder", f"dataset.root={tree}", *TINY, "model.adapter=whitening"]
    process = processes.run(*overrides, f"hydra.run.dir={tmp_path / 'run'}")
    assert process.returncode == 1
    assert "model.adapter=whitening is unknown. Choose one of: affine_norm," in process.stderr
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
    other = processes.run(*arguments, f"dataset.root={tmp_path / 'tre'}", cwd=tmp_path)
    assert "dataset.root" in other.stderr
    assert "name=" in other.stderr  # the remedy for a second data set
    assert list(tmp_path.glob("runs/*/*/seed0/metrics.json"))  # the finished run stays


def test_automatic_run_folder_raises_no_warning(processes: Processes, tmp_path: Path) -> None:
    arguments = ("dataset=mvtec", "dataset.root=/no/such/folder", "seed=3")
    process = run_command(str(ROOT / "train.py"), *arguments, cwd=tmp_path)
    assert "/no/such/folder" in process.stderr
    assert "Warning" not in process.stderr, process.stderr
    fork = processes.run(*arguments, cwd=tmp_path)
    assert (fork.returncode, fork.stdout, fork.stderr) == (process.returncode, process.stdout, process.stderr)
