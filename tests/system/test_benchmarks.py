"""Every benchmark runs in small, writes what it measured, and does not print a time before its sides agree."""

import importlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
COMPARING = {
    "patch_pooling": ["rows"],
    "pixel_metrics": ["rows"],
    "training_step": ["rows", "differences"],
    "later_task": ["rows", "differences", "whole_mvtec_extrapolated"],
    "routed_inference": ["rows", "differences"],
    "growth": ["tasks"],
    "router": ["routers"],
}


@pytest.fixture(autouse=True)
def benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))


def run(name: str, folder: Path) -> dict[str, Any]:
    out = folder / f"{name}.json"
    importlib.import_module(name).main(["--smoke", "--repeats", "1", "--out", str(out)])
    written: dict[str, Any] = json.loads(out.read_text())
    return written


@pytest.mark.parametrize("name", COMPARING)
def test_it_writes_what_it_measured(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written = run(name, tmp_path)
    assert written["machine"]["torch"] == torch.__version__
    for key in COMPARING[name]:
        assert written[key]
    assert all(row["ratio"] > 0 for row in written.get("rows", []))
    assert "seconds" in capsys.readouterr().out


@pytest.mark.parametrize("name", COMPARING)
def test_no_time_is_printed_for_sides_that_differ(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    true = importlib.import_module("side_by_side").agree

    def wrong(what: str, ours: Tensor, other: Tensor, tolerance: float) -> float:
        found: float = true(what, ours, other + 0.5, tolerance)
        return found

    monkeypatch.setattr(importlib.import_module(name), "agree", wrong)
    with pytest.raises(AssertionError, match="differ"):
        run(name, tmp_path)
    assert "ratio" not in capsys.readouterr().out
    assert not (tmp_path / f"{name}.json").exists()


def test_what_is_not_finite_does_not_agree(tmp_path: Path) -> None:
    agree = importlib.import_module("side_by_side").agree
    assert agree("x", torch.ones(2), torch.ones(2) + 1e-3, 1e-2) == pytest.approx(1e-3, rel=1e-3)
    for other in (torch.tensor([1.0, torch.nan]), torch.tensor([1.0, 2.0])):
        with pytest.raises(AssertionError, match="x: the two sides"):
            agree("x", torch.ones(2), other, 1e-2)


def test_an_experts_size_is_that_of_its_file(tmp_path: Path) -> None:
    (row,) = run("expert_size", tmp_path)["rows"]
    assert 0 < row["bytes"] - row["flow"] - row["router"] - row["seen"] < 20_000  # the header
