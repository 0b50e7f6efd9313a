"""Tests of the evaluator: every image is scored at most once per expert, and only changed routings are measured."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from helpers.detectors import fit_detector, small_settings
from helpers.program import TINY, run_program
from helpers.trees import write_mvtec_tree
from moleflow.data.datamodule import FolderDataModule
from moleflow.detector.feature_set import FeatureSet
from moleflow.detector.registry import build_component
from moleflow.evaluation.evaluator import Evaluator
from moleflow.features.backbone import PatchBackbone
from moleflow.metrics.category import CategoryMetrics
from moleflow.routing.router import Router, Routing

CATEGORIES = ("bottle", "cable", "grid", "screw")


def test_no_computation_is_repeated_in_a_run_of_four_tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    batches: list[int] = []
    scored: Counter[tuple[Path, str]] = Counter()
    measured: Counter[int] = Counter()  # by the number of experts at that time
    experts = 0
    forward, patch_scores = PatchBackbone.forward, FeatureSet.patch_scores
    route, update = Router.route, CategoryMetrics.update

    def counted_forward(self: PatchBackbone, images: Tensor) -> Tensor:
        batches.append(len(images))
        return forward(self, images)

    def counted_scores(
        self: FeatureSet, features: Tensor, expert: str, paths: Sequence[Path], groups: Tensor | None = None
    ) -> Tensor:
        scored.update((path, expert) for path in paths)
        return patch_scores(self, features, expert, paths, groups)

    def changing_route(self: Router, features: Tensor) -> Routing:
        """Route the first image of every category to the third expert, if there are three."""
        nonlocal experts
        experts = len(self.names)
        routing = route(self, features)
        return replace(routing, experts=[self.names[2], *routing.experts[1:]]) if experts == 3 else routing

    def counted_update(self: CategoryMetrics, *values: Any) -> None:
        measured[experts] += 1
        update(self, *values)

    monkeypatch.setattr(PatchBackbone, "forward", counted_forward)
    monkeypatch.setattr(FeatureSet, "patch_scores", counted_scores)
    monkeypatch.setattr(Router, "route", changing_route)
    monkeypatch.setattr(CategoryMetrics, "update", counted_update)

    root = write_mvtec_tree(tmp_path / "data", CATEGORIES)
    metrics = run_program(
        [
            "dataset=folder",
            f"dataset.root={root}",
            *TINY,
            "backbone.name=resnet18",
            "epochs=1",
            "scoring.standardize=true",
        ],
        tmp_path / "run",
    )

    images = [path for path in root.rglob("*.png") if "ground_truth" not in path.parts]
    assert metrics["routing_accuracy"] == 1.0  # of the router itself, which the counts below rest on
    assert sum(batches) == len(images) + 1  # one for the shape of the patch grid
    assert set(scored.values()) == {1}
    tests = {pair for pair in scored if "test" in pair[0].parts}
    assert len(scored) - len(tests) == sum("train" in path.parts for path in images)
    rerouted = 2  # bottle and cable, one image each
    assert len(tests) == sum("test" in path.parts for path in images) + rerouted
    # Each task measures its new category, the third one also the rerouted ones. The scores of the former routing are
    # still known with the fourth expert, and the oracle's results equal those of the router.
    assert measured == {1: 1, 2: 1, 3: 1 + rerouted, 4: 1}


@pytest.fixture
def evaluator(tmp_path: Path) -> Evaluator:
    tree = write_mvtec_tree(tmp_path, ("bottle", "screw"), good=2, defect=2)
    transform = build_component("transform", small_settings()["transform"])
    data = FolderDataModule(tree, transform)
    data.setup()
    return Evaluator(fit_detector(tree), data, progress=False)


def test_results_equal_the_scores_of_the_detector(evaluator: Evaluator, monkeypatch: pytest.MonkeyPatch) -> None:
    categories = ["bottle", "screw"]
    routed, oracle = evaluator.routed(categories, "routed"), evaluator.oracle(categories, "oracle")
    for category in categories:
        result = routed[category]
        scored = evaluator.detector.score([sample.path for sample in result.samples])
        assert result.scores.tolist() == [image.score for image in scored]
        assert list(result.routes) == [image.expert for image in scored]
        assert result.all_metrics() == {**result.metrics, "routing_accuracy": result.routing_accuracy}
        assert oracle[category].routes == (category,) * 4
        assert oracle[category].routing_accuracy == 1.0
    monkeypatch.setattr(
        Router, "route", lambda self, x: Routing(["screw"] * len(x), torch.ones(len(x)), self.distances(x))
    )
    swapped = evaluator.routed(["bottle"], "routed")["bottle"]
    assert swapped.routing_accuracy == 0.0
    assert swapped.scores.tolist() != oracle["bottle"].scores.tolist()


def test_cleared_scores_are_computed_again(evaluator: Evaluator) -> None:
    before = evaluator.oracle(["bottle"], "oracle")["bottle"]
    with torch.no_grad():
        for buffer in evaluator.detector.patch_model.expert("bottle").buffers():  # type: ignore[attr-defined]
            buffer.mul_(0.5)
    assert evaluator.oracle(["bottle"], "oracle")["bottle"] is before
    evaluator.clear()
    after = evaluator.oracle(["bottle"], "oracle")["bottle"]
    assert not torch.equal(after.scores, before.scores)
