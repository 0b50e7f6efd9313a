"""Tests of the benchmarks at their smallest sizes: they write results, and print no time before both sides agree."""

import argparse
import importlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor

from helpers.processes import Processes
from helpers.trees import write_mvtec_tree

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
COMPARISONS = {
    "features": ["rows"],
    "memory_bank": ["rows", "radii"],
    "patch_pooling": ["rows"],
    "pixel_metrics": ["rows"],
    "training_step": ["rows", "differences"],
    "later_task": ["rows", "differences", "whole_mvtec_extrapolated"],
    "routed_inference": ["rows", "differences"],
    "growth": ["tasks"],
    "router": ["routers"],
}
"""Benchmarks that compare two sides, and keys of their results."""
OTHERS = ("decisions", "expert_size", "fit_memory", "parallel", "predict", "quality", "report", "short", "stream")
MODULES = ("inputs", "side_by_side", "freia_form", "anomalib_patchcore")
"""Modules of the benchmarks without a command."""


@pytest.fixture(autouse=True)
def benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))


def run(name: str, folder: Path, *args: str) -> dict[str, Any]:
    """Run a benchmark at its smallest size and return its result."""
    out = folder / f"{name}.json"
    importlib.import_module(name).main(["--smoke", "--repeats", "1", "--out", str(out), *args])
    result: dict[str, Any] = json.loads(out.read_text())
    return result


def test_every_benchmark_is_tested() -> None:
    assert {path.stem for path in BENCHMARKS.glob("*.py")} == {*COMPARISONS, *OTHERS, *MODULES}


@pytest.mark.parametrize("name", COMPARISONS)
def test_benchmark_writes_its_result(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = run(name, tmp_path)
    rows = list(importlib.import_module("short").time_rows(name, result))
    assert rows
    assert all(row["form"] and row["seconds"] >= 0 for row in rows)
    assert result["machine"]["torch"] == torch.__version__
    for key in COMPARISONS[name]:
        assert result[key]
    assert all(row["ratio"] > 0 for row in result.get("rows", []))
    assert "seconds" in capsys.readouterr().out


@pytest.mark.parametrize("name", COMPARISONS)
def test_benchmark_prints_no_time_for_sides_that_differ(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert_close = importlib.import_module("side_by_side").assert_close

    def assert_close_to_wrong_result(result: str, ours: Tensor, other: Tensor, tolerance: float) -> float:
        difference: float = assert_close(result, ours, other + 0.5, tolerance)
        return difference

    monkeypatch.setattr(importlib.import_module(name), "assert_close", assert_close_to_wrong_result)
    with pytest.raises(AssertionError, match="differ"):
        run(name, tmp_path)
    assert "ratio" not in capsys.readouterr().out
    assert not (tmp_path / f"{name}.json").exists()


def test_short_form_runs_every_benchmark_of_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    short = importlib.import_module("short")
    assert set(short.SHORT) == {*COMPARISONS, "parallel", "report"}
    arguments = {}

    def fake_run(name: str, words: list[str]) -> list[dict[str, Any]]:
        arguments[name] = words
        return [{"benchmark": name, "form": "some form", "seconds": 1.0}]

    monkeypatch.setattr(short, "run", fake_run)
    short.main(["--out", str(tmp_path / "short.json")])
    assert arguments["growth"] == ["--device", "cpu", "--clock", "wall", "--epochs", "1"]
    assert [row["benchmark"] for row in json.loads((tmp_path / "short.json").read_text())["rows"]] == list(short.SHORT)
    assert capsys.readouterr().out.count("some form") == len(short.SHORT)


def test_values_that_are_not_finite_are_not_close() -> None:
    assert_close = importlib.import_module("side_by_side").assert_close
    assert assert_close("x", torch.ones(2), torch.ones(2) + 1e-3, 1e-2) == pytest.approx(1e-3, rel=1e-3)
    for other in (torch.tensor([1.0, torch.nan]), torch.tensor([1.0, 2.0])):
        with pytest.raises(AssertionError, match="x: the two sides"):
            assert_close("x", torch.ones(2), other, 1e-2)


def test_predict_has_two_rows_per_category(tmp_path: Path) -> None:
    rows = run("predict", tmp_path)["rows"]
    assert [(row["category"], row["form"]) for row in rows] == [
        (category, form) for category in ("first", "second") for form in ("predict", "network")
    ]
    assert all(row["images_per_second"] == pytest.approx(1 / row["seconds"]) for row in rows)


def test_expert_size_is_the_size_of_its_file(tmp_path: Path) -> None:
    (row,) = run("expert_size", tmp_path)["rows"]
    assert 0 < row["bytes"] - row["model"] - row["training"] < 20_000  # the header


def test_stream_has_a_row_per_task_and_step(tmp_path: Path) -> None:
    result = run("stream", tmp_path, "--plot", str(tmp_path / "stream.svg"))
    assert "images" in (tmp_path / "stream.svg").read_text()
    assert [row["task"] for row in result["tasks"]] == [1, 2]
    assert [row["image"] for row in result["predictions"]] == [2, 4]
    assert all(
        row["open_files"] > 0 and row["resident_mb"] > 0 for part in ("tasks", "predictions") for row in result[part]
    )


@pytest.mark.parametrize("model", ["patchcore", "mixture"])
def test_fit_is_streamed_from_the_cache(model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fit_memory = importlib.import_module("fit_memory")
    limit = fit_memory.batches.MAX_CHUNK_BYTES
    fit_memory.main(["--smoke", "--model", model, "--out", str(tmp_path / "result.json")])
    result = json.loads((tmp_path / "result.json").read_text())
    assert len(result["coverage"]["chunks"]) == len(result["coverage"]["all patches"]) == 3
    assert result["rows"][0]["peak_gigabytes"] > 0
    assert limit == fit_memory.batches.MAX_CHUNK_BYTES
    radii = iter([1.0] * 3 + [0.5] * 3)  # of the selections in chunks, and of those from all patches
    monkeypatch.setattr(fit_memory, "coverage", lambda points, selected: (next(radii), 0.0))
    with pytest.raises(AssertionError, match="radius of the selection in chunks is larger"):
        fit_memory.main(["--smoke", "--model", model])
    assert limit == fit_memory.batches.MAX_CHUNK_BYTES


def test_quality_compares_rows_on_the_same_images(tmp_path: Path) -> None:
    result = run("quality", tmp_path)
    rows = {row["row"]: row for row in result["rows"]}
    assert list(rows) == ["fast", "Lite0 pooled 224"]
    assert rows["fast"]["against_best_single"].count("[") == 1
    assert "against_best_single" not in rows["Lite0 pooled 224"]
    assert [set(row) for row in result["categories"]] == [{"row", "a", "b"}] * 2


def test_interval_of_a_difference_is_that_of_a_bootstrap_over_images() -> None:
    quality = importlib.import_module("quality")
    random = np.random.default_rng(0)
    labels = np.repeat([0, 1], 30)

    def runs(shift: float) -> list[Any]:
        scores = random.normal(size=60) + shift * labels
        return [quality.Run({"a": quality.Scores(labels, scores, {})}, {})]

    good, bad = runs(1.5), runs(0.2)
    low, high = quality.bootstrap_difference(good, bad, 500)
    difference = 100 * (
        roc_auc_score(labels, good[0].categories["a"].scores) - roc_auc_score(labels, bad[0].categories["a"].scores)
    )
    assert low < difference < high
    assert low > 0
    assert quality.bootstrap_difference(good, good, 50) == (0, 0)
    reverse = [quality.Run({"a": quality.Scores(labels[::-1], good[0].categories["a"].scores, {})}, {})]
    with pytest.raises(AssertionError, match="other test images of a"):
        quality.bootstrap_difference(good, reverse, 50)


def test_results_of_anomalib_are_measured_on_the_pixels_of_the_files_and_ordered_by_path(tmp_path: Path) -> None:
    """Maps are stored as anomalib's script does; the images are not square."""
    quality = importlib.import_module("quality")
    tree = write_mvtec_tree(tmp_path / "tree", ("bottle",), size=(24, 32), train=1, good=2, defect=2)
    folder = tmp_path / "row"
    folder.mkdir()
    (folder / "costs.json").write_text('{"training_s": 1.0}')
    files = sorted((tree / "bottle" / "test").rglob("*.png"), reverse=True)
    labels = [int(file.parent.name != "good") for file in files]
    maps = np.random.default_rng(0).random((len(files), 16, 16)).astype(np.float32)
    paths = [file.relative_to(tree).as_posix() for file in files]
    np.savez(folder / "bottle.npz", paths=np.array(paths), scores=np.array(labels, np.float32), maps=maps)
    options = argparse.Namespace(data=tree, shots=None)
    result = quality._anomalib_run(quality.ANOMALIB_ROWS["anomalib Lite0 224"], folder, 0, {}, options)
    bottle = result.categories["bottle"]
    assert bottle.labels.tolist() == bottle.scores.tolist() == labels[::-1]
    assert bottle.metrics["image_auroc"] == 1
    assert 0 < bottle.metrics["pixel_ap"] < 1


def test_decisions_count_all_test_images(tmp_path: Path) -> None:
    rows = run("decisions", tmp_path)["rows"]
    assert [(row["category"], row["rate"]) for row in rows] == [
        ("first", "0.01"), ("first", "0.05"), ("second", "0.01"), ("second", "0.05"), ("all", "0.01"), ("all", "0.05")
    ]  # fmt: skip
    assert [int(row["false_alarms"].split("/")[1]) for row in rows] == [2, 2, 2, 2, 4, 4]
    for row in rows:
        assert float(row["recall"]) <= float(row["best_recall"])


def test_report_is_measured_without_training(tmp_path: Path) -> None:
    (row,) = run("report", tmp_path)["rows"]
    assert row["runs"] == 4
    assert 0 < row["page_mb"] < 10


@pytest.mark.slow
def test_parallel_run_has_the_result_of_the_sequential_run(
    tmp_path: Path, processes: Processes, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")

    def train(threads: int, *overrides: str) -> None:
        process = processes.run(*overrides)
        assert process.returncode == 0, process.stderr

    monkeypatch.setattr(importlib.import_module("parallel"), "_train", train)  # without the time of the imports
    rows = run("parallel", tmp_path)["rows"]
    assert len(rows) == 2
    assert all(row["ratio"] > 0 for row in rows)
