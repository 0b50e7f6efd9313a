"""Tests of the config keys that do not affect results."""

from moleflow.runs.identity import matches_any


def test_keys_and_their_prefixes() -> None:
    assert matches_any("trainer.devices", ["trainer"])
    assert matches_any("trainer", ["trainer"])
    assert not matches_any("trainers", ["trainer"])


def test_a_star_stands_for_one_part() -> None:
    assert matches_any("dataset.parts.mvtec.root", ["dataset.parts.*.root"])
    assert not matches_any("dataset.parts.mvtec.shots", ["dataset.parts.*.root"])
    assert not matches_any("dataset.parts", ["dataset.parts.*.root"])
