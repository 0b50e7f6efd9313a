"""Numbers that go wrong, repeat, or differ by one component only; and a memory that does not grow."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from faults.harness import Bench
from helpers.program import ROOT, TINY, run_program
from helpers.trees import write_mvtec_tree
from moleflow.data.read import picture_size
from moleflow.errors import UserError
from moleflow.flow import ExpertFlow
from moleflow.training import module as training
from moleflow.training.batches import FeatureBatches


def arguments(tree: Path, *overrides: str) -> list[str]:
    return ["dataset=folder", f"dataset.root={tree}", *TINY, *overrides]


@pytest.fixture
def not_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the loss of the fourth step of the run not a number."""
    steps, patch_nll = [0], training.patch_nll

    def poisoned(z: torch.Tensor, logdet: torch.Tensor) -> torch.Tensor:
        steps[0] += 1
        return patch_nll(z, logdet) * (torch.nan if steps[0] == 4 else 1)

    monkeypatch.setattr(training, "patch_nll", poisoned)


@pytest.mark.usefixtures("not_a_number")
def test_a_loss_that_is_no_number_names_its_place(tmp_path: Path) -> None:
    tree = write_mvtec_tree(tmp_path / "tree", ("bottle", "screw"))
    with pytest.raises(UserError) as raised:
        run_program(arguments(tree), tmp_path / "run")
    message = str(raised.value)
    assert "task 1/2 bottle: the loss is nan in epoch 1, step 1, expert 'bottle', pictures bottle/00" in message
    assert "on_nonfinite=skip" in message
    assert '"failed"' in (tmp_path / "run/status.json").read_text()


@pytest.mark.usefixtures("not_a_number")
def test_a_skipped_step_is_counted(tmp_path: Path) -> None:
    tree = write_mvtec_tree(tmp_path / "tree", ("bottle", "screw"))
    metrics = run_program(arguments(tree, "optimizer.on_nonfinite=skip"), tmp_path / "run")
    assert metrics["training"]["skipped_steps"] == [1, 0]
    assert metrics["training"]["epochs"][0][-1]["skipped_steps"] == 1


def test_a_gradient_that_is_no_number_moves_nothing(tmp_path: Path) -> None:
    tree = write_mvtec_tree(tmp_path / "tree", ("bottle",))

    def rooted(z: torch.Tensor, logdet: torch.Tensor) -> torch.Tensor:
        zero = (z * 0).square().sum(-1)
        return patch_nll(z, logdet) + zero.sqrt()  # 0, with an infinite slope

    patch_nll = training.patch_nll
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(training, "patch_nll", rooted)
        with pytest.raises(UserError, match="task 1/1 bottle: the gradient's norm is nan in epoch 0, step 0"):
            run_program(arguments(tree), tmp_path / "run")
        with pytest.raises(UserError, match="not one optimizer step was made"):
            run_program(arguments(tree, "optimizer.on_nonfinite=skip"), tmp_path / "skip")


def test_a_score_that_is_no_number_names_expert_and_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = write_mvtec_tree(tmp_path / "tree", ("bottle",))
    monkeypatch.setattr("moleflow.flow.density.patch_nll", lambda z, logdet: z.sum(-1) * torch.inf)
    with pytest.raises(UserError, match=r"Expert 'bottle' gives scores that are not finite for .*bottle/000.png"):
        run_program(arguments(tree), tmp_path / "run")


def test_the_same_command_in_a_fresh_process_repeats_every_bit(bench: Bench) -> None:
    job = bench.job("fresh", own_cache=True)
    run = [sys.executable, str(ROOT / "train.py"), *job.arguments]
    subprocess.run(run, check=True, capture_output=True, env={"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"})
    assert job.outcome() == bench.expected


def test_an_ablation_shares_every_draw_but_its_own() -> None:
    full = ExpertFlow(dim=16, coupling_layers=2, lora_rank=4, seed=3)
    full.add_expert("bottle")
    for change in ({"lora_rank": 0}, {"dia_blocks": 0}, {"adapter": "none"}, {"position_code": False}):
        other = ExpertFlow(**{"dim": 16, "coupling_layers": 2, "lora_rank": 4, "seed": 3, **change})
        other.add_expert("bottle")
        shared, own = other.state_dict(), full.state_dict()
        assert set(shared) <= set(own)
        assert set(shared) < set(own) or "position_code" in change
        assert all(torch.equal(own[name], value) for name, value in shared.items())
    orders = [
        [batch.indices.tolist() for batch in FeatureBatches({"bottle": torch.zeros(9, 2, 2, dim)}, 2, 3, 0)]
        for dim in (4, 8)
    ]
    assert orders[0] == orders[1]


KEPT_A_TASK = 20
"""Tensors that a category of two test pictures leaves by intention."""

WATCH = """
import gc, json, multiprocessing, os, sys, torch
from moleflow.training.sequence import TaskSequence
account = TaskSequence._account
def watched(self, *learned):
    account(self, *learned)
    task = learned[0]
    del learned
    gc.collect()
    flows = [self.model.flow, *self.model._merged.values()]  # as many merged experts as the model keeps: 8
    own = sum(1 for flow in flows for _ in flow.parameters())
    tensors = sum(isinstance(o, torch.Tensor) for o in gc.get_objects())
    with open("/proc/self/statm") as file:
        resident = int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    print("WATCH", json.dumps({"task": task.index, "tensors": tensors - own, "files": len(os.listdir("/proc/self/fd")),
          "children": len(multiprocessing.active_children()), "resident": resident}), flush=True)
TaskSequence._account = watched
"""


def test_nothing_grows_over_thirty_tasks(bench: Bench) -> None:
    names = tuple(f"c{number:02d}" for number in range(30))
    tree = write_mvtec_tree(bench.base / "thirty-tree", names, train=2, good=1, defect=1)
    assert picture_size(tree / "c00/train/good/000.png") == (64, 64)
    tiny = ("epochs=1", "model.coupling_layers=1", "dataset.categories=null")
    worker = ("features.num_workers=1", "features.cache_dir=null")
    job = bench.job("thirty", f"dataset.root={tree}", *tiny, *worker)
    output = bench.finish(job, setup=WATCH).output
    seen = [json.loads(line.split("WATCH ")[1]) for line in output.splitlines() if "WATCH " in line]
    assert len(seen) == 30
    fifth, last = seen[4], seen[-1]
    assert last["files"] <= fifth["files"]
    assert last["children"] == fifth["children"] == 0
    # What a category leaves by intention: router statistics, test set and scores. No batch, optimizer or trainer.
    kept = (last["tensors"] - fifth["tensors"]) / 25
    print(kept, fifth, last)
    assert kept <= KEPT_A_TASK, (fifth, last)
    assert last["resident"] - fifth["resident"] < 25 * 4e6, (fifth, last)
