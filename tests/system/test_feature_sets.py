"""Whole runs with several feature sets: a flow with a memory bank, resumed runs, and tasks of other processes."""

import os
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from omegaconf import OmegaConf
from torch import Tensor

from helpers.composing import once
from helpers.program import LARGE_SET, TINY, run_program
from helpers.stopping import Killed, stop_and_resume
from helpers.trees import write_mvtec_tree
from moleflow import MoLEFlow
from moleflow.detector.feature_set import FIRST, FeatureSet
from moleflow.experiment.build import build_continual_trainer
from moleflow.experiment.parallel import train_task_in_job
from moleflow.training import continual_trainer
from moleflow.training.task_result import StoredTaskResult


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    root = write_mvtec_tree(tmp_path_factory.mktemp("tree"), ("bottle", "screw"), (64, 96), train=4, good=2, defect=2)
    sizes = ("transform.size=32", "+per_category.screw.feature_sets.large.transform.size=96")
    return ["dataset=folder", f"dataset.root={root}", *TINY, *LARGE_SET, *sizes, "augmentation=flips"]


class Finished(NamedTuple):
    """An uninterrupted run.

    Attributes:
        folder: The run folder.
        metrics: Content of ``metrics.json``.
        fits: Expert and feature set of each fit, in order.
    """

    folder: Path
    metrics: dict[str, Any]
    fits: list[tuple[str, str]]


@pytest.fixture(scope="module")
def finished(command: list[str], tmp_path_factory: pytest.TempPathFactory) -> Finished:
    fits: list[tuple[str, str]] = []
    fit = FeatureSet.fit

    def recorded(self: FeatureSet, name: str, features: Tensor, images: int) -> None:
        fits.append((name, self.name))
        fit(self, name, features, images)

    folder = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FeatureSet, "fit", recorded)
        return Finished(folder, run_program(command, folder), fits)


def results(folder: Path) -> list[bytes]:
    experts = [f"model/experts/{name}.safetensors" for name in ("bottle", "screw")]
    return [(folder / name).read_bytes() for name in ("scores.csv", *experts)]


def test_loaded_model_reproduces_the_scores_of_the_run(command: list[str], finished: Finished) -> None:
    folder, metrics = finished.folder, finished.metrics
    root = Path(command[1].partition("=")[2])
    rows = [line.split(",") for line in (folder / "scores.csv").read_text().splitlines()[1:]]
    model = MoLEFlow.load(folder)
    assert [repr(image.score) for image in model.score([root / row[0] for row in rows])] == [row[4] for row in rows]
    grids = {name: record.grids for name, record in model.experts.items()}
    assert grids == {"bottle": {FIRST: (4, 4), "large": (6, 10)}, "screw": {FIRST: (4, 4), "large": (10, 14)}}
    assert model.experts["screw"].grid_shape == (10, 14), "images have their proportions in each feature set"
    assert metrics["training"]["steps"] == 2 * 2 * 4  # tasks, epochs and batches of the flow with its augmented images
    image_ids = model.feature_sets["large"].patch_model.expert_state("bottle")["image_ids"]
    assert set(image_ids.tolist()) == {0, 1, 2, 3}, "augmented images have the index of their image"
    assert metrics["parameters"] == {**model.parameter_counts(), "kept": 0}


def test_further_feature_sets_are_fitted_before_the_first(finished: Finished) -> None:
    assert finished.fits == [(name, each) for name in ("bottle", "screw") for each in ("large", FIRST)]


def test_resumed_run_equals_the_uninterrupted_one(command: list[str], finished: Finished, tmp_path: Path) -> None:
    stop_and_resume(command, tmp_path, task=1, epoch=0)
    assert results(tmp_path) == results(finished.folder)


def test_task_of_another_process_equals_that_of_the_run(
    command: list[str], finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = continual_trainer.train_task

    def train_first_task(context: Any, task: Any, make_trainer: Any) -> Any:
        if task.index:
            raise Killed
        return train(context, task, make_trainer)

    with monkeypatch.context() as patch:
        patch.setattr(continual_trainer, "train_task", train_first_task)
        with pytest.raises(Killed):
            run_program(command, tmp_path)
    settings = once(*command) | {"logger": {}, "callbacks": {}}
    train_task_in_job(build_continual_trainer(OmegaConf.create(settings), settings, tmp_path), 1, os.getpid())
    assert StoredTaskResult(tmp_path / "state", 1).is_complete()
    with monkeypatch.context() as patch:
        patch.setattr(continual_trainer, "train_task", train_first_task)
        run_program(command, tmp_path)
    assert results(tmp_path) == results(finished.folder)
