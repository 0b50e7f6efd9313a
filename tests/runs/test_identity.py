"""Tests of the config keys that do not affect results."""

from moleflow.runs.identity import matches_any


def test_keys_and_their_prefixes() -> None:
    assert matches_any("trainer.devices", ["trainer"])
    assert matches_any("trainer", ["trainer"])
    assert not matches_any("trainers", ["trainer"])
