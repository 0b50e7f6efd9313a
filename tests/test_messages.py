"""What a person sees who asks for something that is not there: one message, no traceback, exit status 1."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from helpers.processes import Processes
from helpers.program import ROOT, TINY, run_command, run_program
from helpers.trees import write_mvtec_tree
from moleflow.errors import UserError


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return write_mvtec_tree(tmp_path / "tree", ("bottle", "screw"))


def refuse(tree: Path, *overrides: str) -> str:
    """Run and return the message of the error that ends the run before training."""
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
        (["backbone.dim=30"], ["30", "divisible by 4", "32"]),
        (["scoring.aggregation=topk"], ["topk", "top_k"]),
        (["scoring.top_k=65"], ["top_k=65", "64"]),
        (["router.rule=poled"], ["poled", "pooled"]),
        (["model.adapter=whitning"], ["whitning", "whitening"]),
        (["loss.tail_top_k_ratio=0"], ["tail_top_k_ratio"]),
        (["epochs=0"], ["epochs=0"]),
        (["optimizer.lr=-1"], ["optimizer.lr=-1"]),
        (["optimizer.lr=fast"], ["optimizer.lr=fast must be a number."]),
        (["optimizer.lr=true"], ["optimizer.lr=true must be a number."]),
        (["optimizer.lr={a: 1}"], ["optimizer.lr={'a': 1} must be a number."]),
        (["optimizer.algorithm.weight_decay=abc"], ["optimizer.algorithm refuses its arguments", "timm.optim.AdamP"]),
        (["optimizer.algorithm.delta=abc"], ["optimizer.algorithm refuses its arguments"]),
        (["features.cache_dir=3"], ["features.cache_dir=3 must be a text or null."]),
        (["seed=abc"], ["seed=abc must be a whole number."]),
        (["seed=1.5"], ["seed=1.5 must be a whole number."]),
        (["seed=-1"], ["seed=-1 must be a whole number of at least 0."]),
        (["progress=maybe"], ["progress=maybe must be true or false."]),
        (["router.oracle=maybe"], ["router.oracle=maybe must be true or false."]),
        (["model.lora_rank=abc"], ["model.lora_rank=abc must be a whole number."]),
        (["loss.tail_weight=x"], ["loss.tail_weight=x must be a number."]),
        (["loss.tail_weight=-1"], ["loss.tail_weight=-1 must be"]),
        (["transform.mode=stretch"], ["transform.mode=stretch", "squash"]),
        (["transform.size=big"], ["transform.size=big must be a whole number or a list of whole numbers."]),
        (["scoring.pool=4"], ["scoring.pool=4"]),
        (["scoring.sigma=-1"], ["scoring.sigma=-1"]),
        (["features.num_workers=-1"], ["features.num_workers=-1 must be a whole number of at least 0."]),
        (["backbone.name=5"], ["backbone.name=5 is not a network"]),
        (["backbone.name=resnet19"], ["resnet19", "resnet18"]),
        (["backbone.layers=[layer9]"], ["layer9", "layer2"]),
        (["backbone.pretrained=true", "backbone.weights=/no/file.pth"], ["/no/file.pth"]),
        (["+model.lora_rnk=3"], ["lora_rnk", "lora_rank"]),
    ],
)
def test_settings(tree: Path, overrides: list[str], words: list[str]) -> None:
    message = refuse(tree, *overrides)
    assert all(word in message for word in words), message


def test_data(tree: Path) -> None:
    broken = tree / "screw" / "test" / "good" / "000.png"
    whole = broken.read_bytes()
    broken.write_bytes(whole[: len(whole) // 2])
    assert str(broken) in refuse(tree)
    broken.write_bytes(whole)

    mask = next((tree / "bottle" / "ground_truth").rglob("*.png"))
    whole = mask.read_bytes()
    Image.new("L", (10, 10), 255).save(mask)
    assert mask.name in refuse(tree)
    mask.write_bytes(whole)

    orphan = mask.with_name("999_mask.png")
    shutil.copy(mask, orphan)
    assert "999" in refuse(tree)
    orphan.unlink()

    for picture in (tree / "bottle" / "train" / "good").iterdir():
        picture.unlink()
    assert "bottle" in refuse(tree)


@pytest.mark.parametrize(
    ("mode", "key"), [((), "hydra.run.dir"), (("-m", "seed=0,1"), "hydra.sweep.dir")], ids=["run", "sweep"]
)
def test_a_folder_that_cannot_be_made_is_one_message(mode: tuple[str, ...], key: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = run_command("train.py", *mode, "dataset=mvtec", f"{key}={tmp_path / 'file' / 'run'}")
    assert done.returncode == 1
    assert f"{tmp_path / 'file' / 'run'} cannot be made: Not a directory" in done.stderr
    assert f"{key}=" in done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="needs a folder that even root cannot write to")
def test_a_sweep_whose_folder_cannot_be_written_to_is_one_message() -> None:
    done = run_command("train.py", "-m", "seed=0,1", "dataset=mvtec", "hydra.sweep.dir=/proc")
    assert done.returncode == 1
    assert done.stderr.startswith("The folder /proc cannot be written to: ")
    assert len(done.stderr.splitlines()) == 1, done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["+experiment=quickstrt"], ["Did you mean 'quickstart'"]),
        (["optimizer.learning_rate=1"], ["optimizer.learning_rate", "optimizer.lr"]),
        (["per_category.hide.epochs=3"], ["write +per_category.hide.epochs=3, with the plus"]),
        (["dataset=mvtek"], ["Did you mean 'mvtec'"]),
        (["dataset=mvtec", "dataset.root=/no/such/folder"], ["/no/such/folder"]),
    ],
)
def test_command_line_shows_one_message_and_fails(
    arguments: list[str], words: list[str], processes: Processes, tmp_path: Path
) -> None:
    done = processes.run(*arguments, f"hydra.run.dir={tmp_path}")
    assert done.returncode == 1
    assert all(word in done.stderr for word in words), done.stderr
    assert "Traceback" not in done.stderr


def test_a_command_that_is_refused_leaves_nothing_and_corrected_it_runs(processes: Processes, tmp_path: Path) -> None:
    root = write_mvtec_tree(tmp_path / "tree", ("bottle",))
    arguments = ["dataset=folder", "model=gaussian", *(key for key in TINY if not key.startswith("model."))]
    for wrong in (f"dataset.root={tmp_path / 'tre'}", "batch_size=0"):
        refused = processes.run(*arguments, f"dataset.root={root}", wrong, cwd=tmp_path)
        assert refused.returncode == 1
        assert not list((tmp_path / "runs").iterdir())
    assert processes.run(*arguments, f"dataset.root={root}", cwd=tmp_path).returncode == 0
    again = processes.run(*arguments, f"dataset.root={tmp_path / 'tre'}", cwd=tmp_path)
    assert "dataset.root" in again.stderr
    assert "name=" in again.stderr  # the way to a second data set
    assert list(tmp_path.glob("runs/*/*/seed0/metrics.json"))  # and what is there stays


def test_a_run_folder_that_names_itself_brings_no_warning(processes: Processes, tmp_path: Path) -> None:
    arguments = ("dataset=mvtec", "dataset.root=/no/such/folder", "seed=3")
    done = run_command(str(ROOT / "train.py"), *arguments, cwd=tmp_path)
    assert "/no/such/folder" in done.stderr
    assert "Warning" not in done.stderr, done.stderr
    fork = processes.run(*arguments, cwd=tmp_path)
    assert (fork.returncode, fork.stdout, fork.stderr) == (done.returncode, done.stdout, done.stderr)


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_table_that_nobody_reads_to_its_end_ends_quietly(unbuffered: str) -> None:
    read, write = os.pipe()
    os.close(read)
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src"), "PYTHONUNBUFFERED": unbuffered}
    command = [sys.executable, "-m", "moleflow.catalogue", "--group", "visa"]
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, env=environment, check=False)
    os.close(write)
    assert (done.returncode, done.stderr) == (141, b"")


def test_another_broken_pipe_is_no_end_of_reading() -> None:
    code = "from moleflow.errors import told\n@told\ndef main():\n    raise BrokenPipeError('a socket')\nmain()"
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 1
    assert "a socket" in done.stderr
