"""Tests of the expert record and its manifest entry."""

import json
from pathlib import Path
from typing import Any

import pytest

from helpers.detectors import fit_detector, small_settings
from helpers.trees import write_mvtec_tree
from moleflow.detector.detector import MoLEFlow


@pytest.mark.parametrize(
    "overrides",
    [
        {},
        {"epochs": 3, "transform": {"size": [64, 96]}, "scoring": {"aggregation": "max"}, "loss": {"tail_weight": 1.0}},
    ],
)
def test_manifest_entry_round_trip(overrides: dict[str, Any], tmp_path: Path) -> None:
    detector = fit_detector(write_mvtec_tree(tmp_path), categories=["bottle"])
    record = detector.experts["bottle"]
    state = detector.expert_state("bottle")
    record.categories, record.overrides = ("bottle", "flask"), overrides
    entry = json.loads(json.dumps(record.manifest_entry()))
    assert ("overrides" in entry) == bool(overrides)
    model = MoLEFlow(small_settings())
    model.load_expert("bottle", entry, state)
    loaded = model.experts["bottle"]
    assert (loaded.categories, loaded.overrides) == (record.categories, record.overrides)
    assert loaded.manifest_entry() == entry


def test_transform_and_grid_follow_the_overrides() -> None:
    model = MoLEFlow(small_settings())
    model.add_expert("bottle", ["bottle"])
    model.add_expert("screw", ["screw"], {"transform": {"size": [64, 96]}})
    bottle, screw = model.experts.values()
    assert (bottle.transform.height, bottle.transform.width, bottle.grid_shape) == (64, 64, (8, 8))
    assert (screw.transform.height, screw.transform.width, screw.grid_shape) == (64, 96, (8, 12))
    assert screw.training is None
    assert screw.standardizer is None
