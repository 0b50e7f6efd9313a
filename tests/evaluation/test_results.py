"""Tests of the result files ``metrics.json`` and ``scores.csv``."""

import csv
import json
import math
import os
from pathlib import Path

import torch

from moleflow.data.samples import Sample
from moleflow.evaluation.evaluator import CategoryResult
from moleflow.evaluation.results import METRICS, format_metrics, peak_memory, write_results, write_scores


def result(root: Path, category: str, scores: list[float]) -> CategoryResult:
    """Return a result whose first image is normal and whose other images have a defect."""
    samples = [
        Sample(root / category / f"{i}.png", category, "test", "dent" if i else "good", None)
        for i in range(len(scores))
    ]
    return CategoryResult(tuple(samples), (category,) * len(scores), torch.tensor(scores), (), {"pro": 0.5}, 1.0)


def test_scores_have_relative_paths_and_full_precision(tmp_path: Path) -> None:
    root, score = tmp_path / "data", 0.1
    routed = {"a": result(root, "a", [score, 2.0]), "b": result(tmp_path / "other", "b", [-3.0])}
    metrics = {"pro": math.nan, "per_category": {"a": {"pro": 0.5}}}
    content = write_results(tmp_path, metrics, routed, root)
    assert content == json.loads((tmp_path / "metrics.json").read_text())
    assert content == {"pro": None, "per_category": {"a": {"pro": 0.5}}}
    with (tmp_path / "scores.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["path"] for row in rows] == ["a/0.png", "a/1.png", f"{tmp_path}/other/b/0.png"]
    assert [row["label"] for row in rows] == ["0", "1", "0"]
    assert [row["defect"] for row in rows] == ["good", "dent", "good"]
    assert [row["category"] for row in rows] == [row["routed_to"] for row in rows] == ["a", "a", "b"]
    assert float(rows[0]["image_score"]) == float(torch.tensor(score))


def test_names_that_are_not_utf8_are_escaped(tmp_path: Path) -> None:
    category = os.fsdecode(b"\xb3\xaa")
    write_scores(tmp_path / "scores.csv", tmp_path, {category: result(tmp_path, category, [0.5])})
    with (tmp_path / "scores.csv").open(encoding="utf-8") as file:
        (row,) = csv.DictReader(file)
    assert (row["path"], row["category"], row["routed_to"]) == (r"\xb3\xaa/0.png", r"\xb3\xaa", r"\xb3\xaa")


def test_table_has_a_line_per_category_and_the_mean() -> None:
    values = dict.fromkeys(METRICS, 0.5) | {"routing_accuracy": 1.0}
    metrics = values | {"per_category": {"bottle": values, "a long name": values | {"pro": None}}}
    lines = format_metrics(metrics)
    assert [line.split("  ")[0].strip() for line in lines] == ["", "bottle", "a long name", "mean"]
    assert all(name in lines[0] for name in (*METRICS, "routing_accuracy"))
    assert lines[1].split()[1:] == ["0.5000"] * len(METRICS) + ["1.0000"]
    assert lines[2].split()[-2:] == ["-", "1.0000"]
    assert len({len(line) for line in lines[1:]}) <= 2


def test_peak_memory_is_in_bytes() -> None:
    assert 10_000_000 < peak_memory()["peak_bytes"] < 10**12
