"""Tests of the run context: experts, overrides and epochs of tasks."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import pytest
import torch

from moleflow.data.tasks import Task, split_into_tasks
from moleflow.detector.detector import MoLEFlow
from moleflow.models.flow.loss import FlowLoss
from moleflow.runs.progress import Progress
from moleflow.training.config import TrainingConfig
from moleflow.training.context import RunContext
from moleflow.utils.errors import UserError


def config(experts: str = "task", per_category: Mapping[str, Any] | None = None, **settings: Any) -> TrainingConfig:
    return TrainingConfig(
        epochs=60,
        batch_size=4,
        experts=experts,
        loss=FlowLoss(),
        optimizer=torch.optim.Adam,
        lr=1e-3,
        final_lr_ratio=0.01,
        on_nonfinite="error",
        lora_delay=0,
        patch_share=1.0,
        seed=0,
        per_category=per_category or {},
        **{"augmentation": "none", **settings},
    )


def context(training: TrainingConfig, split: str = "2-1", **arguments: Any) -> RunContext:
    """Return the context of a run of the categories a, b and c without a detector and without data."""
    tasks = split_into_tasks(("a", "b", "c"), split)
    return RunContext(cast(Any, None), cast(Any, None), tasks, training, Path("run"), **arguments)


def test_experts_of_a_task() -> None:
    per_task = context(config("task"))
    assert [per_task.experts_of(task) for task in per_task.tasks] == [{"a+b": ("a", "b")}, {"c": ("c",)}]
    per_category = context(config("category"))
    assert [per_category.experts_of(task) for task in per_category.tasks] == [{"a": ("a",), "b": ("b",)}, {"c": ("c",)}]
    assert per_task.categories == per_category.categories == ["a", "b", "c"]
    assert [per_task.task_label(task) for task in per_task.tasks] == ["task 1/2 a+b", "task 2/2 c"]


def test_overrides_and_epochs_of_experts() -> None:
    run = context(config("category", {"c": {"epochs": 3}, "b": {"loss": {"tail_weight": 1.0}}}))
    assert run.overrides == {"a": {}, "b": {"loss": {"tail_weight": 1.0}}, "c": {"epochs": 3}}
    assert run.epochs == [60, 3]
    equal = {"epochs": 5}
    assert context(config("task", {"a": equal, "b": equal})).overrides == {"a+b": equal, "c": {}}
    assert context(config("task", {"a": equal, "b": equal})).epochs == [5, 60]


def test_different_overrides_of_one_expert_are_an_error() -> None:
    with pytest.raises(UserError, match="One expert is trained on a and b"):
        context(config("task", {"a": {"epochs": 3}}))


def test_different_epochs_in_one_task_are_an_error() -> None:
    with pytest.raises(UserError, match="epochs of one task's experts to 3 and 60"):
        context(config("category", {"a": {"epochs": 3}}))
    assert context(config("category", {"a": {"epochs": 3}}), split="1-1").epochs == [3, 60, 60]


def test_evaluation_by_the_router_or_by_the_true_category(monkeypatch: pytest.MonkeyPatch) -> None:
    for oracle in (False, True):
        run = context(config(), oracle=oracle)
        monkeypatch.setattr(run.evaluator, "routed", lambda categories, title: {"routed": title})
        monkeypatch.setattr(run.evaluator, "oracle", lambda categories, title: {"oracle": title})
        assert run.evaluate(["a"], "x") == {"oracle" if oracle else "routed": "x"}


def test_paths_of_a_run() -> None:
    run = context(config())
    assert run.state == Path("run/state")
    checkpoints = run.checkpoints(Task(1, ("c",), "c"))
    assert (checkpoints.folder, checkpoints.task) == (run.state, 1)


def test_only_a_single_model_is_trainable() -> None:
    with pytest.raises(AssertionError):
        _ = context(config()).model
    run = context(config())
    run.detector = object.__new__(MoLEFlow)
    assert run.model is run.detector


def test_loss_and_augmentations_of_an_expert() -> None:
    loss = FlowLoss(tail_weight=1.0)
    training = config("task", {"b": {"augmentation": "flips"}}, losses={"b": loss})
    assert training.loss_of(["a"]) is training.loss
    assert training.loss_of(["b", "c"]) is loss
    assert training.augmentations_of(["a"]) == ()
    assert training.augmentations_of(["b", "c"]) == ("flip_left_right", "flip_top_bottom", "rotate_180")


def test_recorded_augmentations_replace_auto() -> None:
    overrides = {"a": {"augmentation": "flips"}, "b": {"loss": {"tail_weight": 1.0}}}
    run = context(config("category", overrides, augmentation="auto"))
    assert list(run.experts_with_automatic_augmentation()) == ["b", "c"]
    run.set_recorded_augmentations(Progress(augmentations={n: {"augmentation": "all"} for n in ("a", "b")}))
    assert list(run.experts_with_automatic_augmentation()) == ["c"]
    assert run.overrides == {**overrides, "b": {"loss": {"tail_weight": 1.0}, "augmentation": "all"}, "c": {}}
    run.set_augmentations({"c": "none"})
    assert run.config.augmentations_of(["c"]) == ()
    shared = context(config("task", augmentation="auto"))
    shared.set_augmentations({"a+b": "flips"})
    assert shared.overrides == {"a+b": {"augmentation": "flips"}, "c": {}}
