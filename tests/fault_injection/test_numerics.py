"""Tests of non-finite values, of reproducibility to the last bit, and of memory that does not grow with tasks."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from fault_injection.harness import Harness
from helpers.program import ROOT, TINY, run_program
from helpers.trees import write_mvtec_tree
from moleflow.data.image_io import image_size
from moleflow.models.flow.expert_flow import ExpertFlow
from moleflow.training import lightning_module
from moleflow.training.data_loader import FeatureLoader
from moleflow.utils.errors import UserError


def arguments(tree: Path, *overrides: str) -> list[str]:
    return ["dataset=folder", f"dataset.root={tree}", *TINY, *overrides]


@pytest.fixture
def nan_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the loss of the run's fourth step NaN."""
    steps, patch_nll = [0], lightning_module.patch_nll

    def patch_nll_with_nan(z: torch.Tensor, logdet: torch.Tensor) -> torch.Tensor:
        steps[0] += 1
        return patch_nll(z, logdet) * (torch.nan if steps[0] == 4 else 1)

    monkeypatch.setattr(lightning_module, "patch_nll", patch_nll_with_nan)


@pytest.mark.usefixtures("nan_loss")
def test_nan_loss_is_an_error_with_task_step_and_images(tmp_path: Path) -> None:
    tree = write_mvtec_tree(tmp_path / "tree", ("bottle", "screw"))
    with pytest.raises(UserError) as raised:
        run_program(arguments(tree), tmp_path / "run")
    message = str(raised.value)
    assert "task 1/2 bottle: the loss is nan in epoch 1, step 1, expert 'bottle', images bottle/00" in message
    assert "on_nonfinite=skip" in message
    assert '"failed"' in (tmp_path / "run/status.json").read_text()


@pytest.mark.usefixtures("nan_loss")
def test_skipped_step_is_counted(tmp_path: Path) -> None:
    tree = write_mvtec_tree(tmp_path / "tree", ("bottle", "screw"))
    metrics = run_program(arguments(tree, "optimizer.on_nonfinite=skip"), tmp_path / "run")
    assert metrics["training"]["skipped_steps"] == [1, 0]
    assert metrics["training"]["epochs"][0][-1]["skipped_steps"] == 1


def test_nan_gradient_is_an_error_or_a_skipped_step(tmp_path: Path) -> None:
    tree = write_mvtec_tree(tmp_path / "tree", ("bottle",))

    def patch_nll_with_root(z: torch.Tensor, logdet: torch.Tensor) -> torch.Tensor:
        zero = (z * 0).square().sum(-1)
        return patch_nll(z, logdet) + zero.sqrt()  # 0, with an infinite slope

    patch_nll = lightning_module.patch_nll
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lightning_module, "patch_nll", patch_nll_with_root)
        with pytest.raises(UserError, match="task 1/1 bottle: the gradient norm is nan in epoch 0, step 0"):
            run_program(arguments(tree), tmp_path / "run")
        with pytest.raises(UserError, match="every optimizer step was skipped"):
            run_program(arguments(tree, "optimizer.on_nonfinite=skip"), tmp_path / "skip")


def test_score_that_is_not_finite_is_an_error_with_expert_and_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = write_mvtec_tree(tmp_path / "tree", ("bottle",))
    monkeypatch.setattr("moleflow.models.flow.expert_flow.patch_nll", lambda z, logdet: z.sum(-1) * torch.inf)
    with pytest.raises(UserError, match=r"The scores of expert 'bottle' are not finite for .*bottle/000.png"):
        run_program(arguments(tree), tmp_path / "run")


def test_same_command_in_a_new_process_has_the_same_result_to_the_last_bit(harness: Harness) -> None:
    job = harness.job("new-process", separate_cache=True)
    run = [sys.executable, str(ROOT / "train.py"), *job.arguments]
    subprocess.run(run, check=True, capture_output=True, env={"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"})
    assert job.outcome() == harness.expected


def test_ablation_changes_no_random_draw_of_the_other_components() -> None:
    full = ExpertFlow(dim=16, coupling_layers=2, lora_rank=4, seed=3)
    full.add_expert("bottle")
    for change in ({"lora_rank": 0}, {"dia_blocks": 0}, {"adapter": "none"}, {"position_code": False}):
        other = ExpertFlow(**{"dim": 16, "coupling_layers": 2, "lora_rank": 4, "seed": 3, **change})
        other.add_expert("bottle")
        ablated_state, full_state = other.state_dict(), full.state_dict()
        assert set(ablated_state) <= set(full_state)
        assert set(ablated_state) < set(full_state) or "position_code" in change
        assert all(torch.equal(full_state[name], value) for name, value in ablated_state.items())
    orders = [
        [batch.indices.tolist() for batch in FeatureLoader({"bottle": torch.zeros(9, 2, 2, dim)}, 2, 3, 0)]
        for dim in (4, 8)
    ]
    assert orders[0] == orders[1]


MAX_TENSORS_PER_TASK = 20
"""Tensors that may remain after the task of a category with two test images."""

COUNT_RESOURCES = """
import gc, json, multiprocessing, os, sys, torch
from moleflow.training.continual_trainer import ContinualTrainer
finish_task = ContinualTrainer._finish_task
def finish_task_and_count(self, task, result):
    finish_task(self, task, result)
    gc.collect()
    model = self.context.model
    merged = [m for s in model.feature_sets.values() for m in s._merged.values()]  # up to 8 are cached
    models = [model.patch_model, *merged]
    parameters = sum(1 for patch_model in models for _ in patch_model.parameters())
    tensors = sum(isinstance(o, torch.Tensor) for o in gc.get_objects())
    with open("/proc/self/statm") as file:
        resident = int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    counts = {"task": task.index, "tensors": tensors - parameters, "files": len(os.listdir("/proc/self/fd")),
              "children": len(multiprocessing.active_children()), "resident": resident}
    print("COUNTS", json.dumps(counts), flush=True)
ContinualTrainer._finish_task = finish_task_and_count
"""


def test_memory_and_open_files_do_not_grow_over_thirty_tasks(harness: Harness) -> None:
    names = tuple(f"c{number:02d}" for number in range(30))
    tree = write_mvtec_tree(harness.base / "thirty-tree", names, train=2, good=1, defect=1)
    assert image_size(tree / "c00/train/good/000.png") == (64, 64)
    tiny = ("epochs=1", "model.coupling_layers=1", "dataset.categories=null")
    worker = ("features.num_workers=1", "features.cache_dir=null")
    job = harness.job("thirty", f"dataset.root={tree}", *tiny, *worker)
    output = harness.finish(job, setup=COUNT_RESOURCES).output
    counts = [json.loads(line.split("COUNTS ")[1]) for line in output.splitlines() if "COUNTS " in line]
    assert len(counts) == 30
    fifth, last = counts[4], counts[-1]
    assert last["files"] <= fifth["files"]
    assert last["children"] == fifth["children"] == 0
    # A category adds router statistics, its test set and scores, but no batch, optimizer or trainer.
    tensors_per_task = (last["tensors"] - fifth["tensors"]) / 25
    assert tensors_per_task <= MAX_TENSORS_PER_TASK, (fifth, last)
    assert last["resident"] - fifth["resident"] < 25 * 4e6, (fifth, last)
