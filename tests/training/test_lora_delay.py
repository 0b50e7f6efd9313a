"""LoRA held back at the begin of later tasks: what moves when, that it holds over a kill, and what is refused."""

from pathlib import Path

import pytest
from safetensors.torch import load_file
from torch import Tensor

from helpers.program import TINY, run_program
from helpers.stopping import stopped_and_continued
from helpers.trees import write_mvtec_tree
from moleflow.utils.errors import UserError


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_mvtec_tree(tmp_path_factory.mktemp("mvtec"), ["bottle", "cable"], train=4, good=1, defect=1)


def overrides(root: Path, *more: str) -> list[str]:
    return ["dataset=folder", f"dataset.root={root}", *TINY, "epochs=3", *more]


def weights(folder: Path, expert: str) -> dict[str, Tensor]:
    return load_file(folder / f"model/experts/{expert}.safetensors")


def test_lora_waits_in_later_tasks_only(root: Path, tmp_path: Path) -> None:
    tiny_lr = "optimizer.final_lr_ratio=1.0"
    run_program(overrides(root, "optimizer.lora_delay=2", tiny_lr), tmp_path / "late")
    run_program(overrides(root, tiny_lr), tmp_path / "none")
    assert weights(tmp_path / "late", "bottle").keys() == weights(tmp_path / "none", "bottle").keys()
    for key, value in weights(tmp_path / "late", "bottle").items():
        assert value.equal(weights(tmp_path / "none", "bottle")[key])
    late, none = weights(tmp_path / "late", "cable"), weights(tmp_path / "none", "cable")
    lora = [key for key in late if ".updates." in key and key.endswith(".b")]
    assert lora
    for key in lora:
        # AdamP's first steps have one length: one epoch of B's own steps against three of them.
        assert 0 < late[key].abs().max() < 0.6 * none[key].abs().max()


def test_a_killed_run_goes_on_with_the_same_wait(root: Path, tmp_path: Path) -> None:
    settings = overrides(root, "optimizer.lora_delay=2")
    whole = run_program(settings, tmp_path / "whole")
    for epoch in (0, 1):
        continued = stopped_and_continued(settings, tmp_path / f"killed{epoch}", task=1, epoch=epoch)
        assert continued["training"] == whole["training"]
        for name in ("bottle", "cable"):
            path = f"model/experts/{name}.safetensors"
            assert (tmp_path / f"killed{epoch}" / path).read_bytes() == (tmp_path / "whole" / path).read_bytes()


@pytest.mark.parametrize(
    ("change", "said"), [("3", "from 0 to 2"), ("-1", "from 0 to 2"), ("1.5", "from 0 to 2"), ("1", "has none")]
)
def test_a_wait_that_says_nothing_is_refused(change: str, said: str, root: Path, tmp_path: Path) -> None:
    more = ["model=whitened", "model.lora_rank=0"] if said == "has none" else []
    with pytest.raises(UserError, match=said):
        run_program(overrides(root, f"optimizer.lora_delay={change}", *more), tmp_path)
