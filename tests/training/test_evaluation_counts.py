"""What evaluation costs: each picture's features once, each score once, metrics again only where routing changed."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from helpers.program import TINY, run_program
from helpers.trees import write_mvtec_tree
from moleflow.features import PatchBackbone
from moleflow.metrics import CategoryMetrics
from moleflow.model import MoLEFlow
from moleflow.routing import Router

CATEGORIES = ("bottle", "cable", "grid", "screw")


def test_nothing_is_computed_twice_in_a_run_of_four_tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    passes: list[int] = []
    scored: Counter[tuple[Path, str]] = Counter()
    measured: Counter[int] = Counter()  # by the number of experts at that time
    experts = 0
    forward, patch_scores, route, update = (
        PatchBackbone.forward,
        MoLEFlow.patch_scores,
        Router.route,
        CategoryMetrics.update,
    )

    def counted_forward(self: PatchBackbone, images: Tensor) -> Tensor:
        passes.append(len(images))
        return forward(self, images)

    def counted_scores(
        self: MoLEFlow, grids: Tensor, expert: str, paths: Sequence[Path], training: bool = False
    ) -> Tensor:
        scored.update((path, expert) for path in paths)
        return patch_scores(self, grids, expert, paths, training)

    def changing_route(self: Router, features: Tensor) -> list[str]:
        """While there are three experts, the first picture of every category goes to the third."""
        nonlocal experts
        experts = len(self.names)
        routes = route(self, features)
        return [self.names[2], *routes[1:]] if experts == 3 else routes

    def counted_update(self: CategoryMetrics, *values: Any) -> None:
        measured[experts] += 1
        update(self, *values)

    monkeypatch.setattr(PatchBackbone, "forward", counted_forward)
    monkeypatch.setattr(MoLEFlow, "patch_scores", counted_scores)
    monkeypatch.setattr(Router, "route", changing_route)
    monkeypatch.setattr(CategoryMetrics, "update", counted_update)

    root = write_mvtec_tree(tmp_path / "data", CATEGORIES)
    metrics = run_program(
        ["dataset=folder", f"dataset.root={root}", *TINY, "epochs=1", "scoring.standardise=true"],
        tmp_path / "run",
    )

    pictures = [path for path in root.rglob("*.png") if "ground_truth" not in path.parts]
    assert metrics["routing_accuracy"] == 1.0  # the router's own choice, which the counts below rest on
    assert sum(passes) == len(pictures) + 1  # one to learn the grid's size
    assert set(scored.values()) == {1}
    tests = {pair for pair in scored if "test" in pair[0].parts}
    assert len(scored) - len(tests) == sum("train" in path.parts for path in pictures)
    moved = 2  # bottle and cable, one picture each
    assert len(tests) == sum("test" in path.parts for path in pictures) + moved
    # A new category each time; with the third expert those that moved; back with the fourth they are still known. The
    # oracle's results are the same once more.
    assert measured == {1: 1, 2: 1, 3: 1 + moved, 4: 1}
