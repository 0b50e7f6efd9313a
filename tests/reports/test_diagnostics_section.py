"""Tests of the section of diagnostics: shown for runs that have them, unreadable files are ignored."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from helpers.report import build_report
from helpers.runs import CATEGORIES, write_run
from moleflow.reports.document import Section
from moleflow.reports.page import html
from moleflow.reports.tables import Table
from moleflow.visualization.plots import Plot


def expert(std: float, lora: bool = True) -> dict[str, Any]:
    return {
        "images": 4,
        "log_determinant": {"mean": 10.0, "sd": std, "correlation_with_square": -0.5},
        "latent": {
            "levels": [-2.0, 0.0, 2.0], "quantiles": [-3.0, 0.0, 3.0], "qq_correlation": 0.99, "excess_kurtosis": 1.5
        },
        "gradient": {"shares": {"mean": 0.3, "tail": 0.6, "penalty": 0.1}, "cosine_mean_tail": -0.9},
        "lora": {"effective_rank": 2.0, "relative_norm": 0.01, "singular_values": {"block0.a": [1.0, 0.1]}}
        if lora
        else "no such quantity: this expert has no low-rank update",
        "tail": {"patches": 1, "border_share": 0.7, "border_patches": 0.75, "frequency": [[0.5, 0.0], [0.25, 0.25]]},
    }  # fmt: skip


def add_diagnostics(folder: Path, lora: bool = True) -> None:
    (folder / "diagnostics").mkdir()
    for i, category in enumerate(CATEGORIES):
        router: Any = {c: {"minimum": 1.0 - i, "low": 1.5 - i, "median": 3.0} for c in CATEGORIES[: i + 1]}
        content = {"task": category, "experts": {category: expert(i + 1.0, lora)}, "router": router if i else "none"}
        (folder / "diagnostics" / f"task{i}.json").write_text(json.dumps(content))
    metrics = json.loads((folder / "metrics.json").read_text())
    for category in CATEGORIES:
        metrics["per_category"][category]["expert"] = category
    (folder / "metrics.json").write_text(json.dumps(metrics))


def diagnostics_section(root: Path) -> Section | None:
    return next((section for section in build_report(root) if section.name == "diagnostics"), None)


def test_without_diagnostics_there_is_no_section(tmp_path: Path) -> None:
    write_run(tmp_path, "a/seed0")
    assert diagnostics_section(tmp_path) is None


def test_section_has_one_row_per_expert_and_four_plots(tmp_path: Path) -> None:
    add_diagnostics(write_run(tmp_path, "a/seed0", pixel_ap=0.6))
    add_diagnostics(write_run(tmp_path, "b/seed0", {"model.lora_rank": 0}, 0.4), lora=False)
    write_run(tmp_path, "c/seed0", {"epochs": 3}, 0.9)
    section = diagnostics_section(tmp_path)
    assert section is not None
    table = next(block for block in section.blocks if isinstance(block, Table))
    rows = [dict(zip(table.columns, row, strict=True)) for row in table.cells]
    assert [row["expert"].text for row in rows] == [*CATEGORIES, *CATEGORIES]
    assert [row["log-determinant standard deviation"].value for row in rows] == [1.0, 2.0, 3.0] * 2
    assert [row["gradient share of the tail term"].value for row in rows] == [0.6] * 6
    assert [row["LoRA effective rank"].text for row in rows] == ["2"] * 3 + ["–"] * 3
    assert {row["minimum router margin after the last task"].value for row in rows} == {-1.0}
    plots = [block for block in section.blocks if isinstance(block, Plot)]
    assert len(plots) == 4
    svg = base64.b64decode(plots[3].uri.partition(",")[2]).decode()
    assert all(category in svg for category in CATEGORIES)


def test_a_missing_quantity_is_a_sentence_instead_of_a_plot(tmp_path: Path) -> None:
    add_diagnostics(write_run(tmp_path, "b/seed0"), lora=False)
    section = diagnostics_section(tmp_path)
    assert section is not None
    assert len([block for block in section.blocks if isinstance(block, Plot)]) == 3
    (sentence,) = [block for block in section.blocks if isinstance(block, str)]
    assert sentence.startswith("Singular values of the LoRA updates: not available")


@pytest.mark.parametrize(
    "text", ["[1]", "{", '{"experts": {"a": 3}, "router": [2]}', '{"experts": {"a": {"tail": {}, "latent": {"x": 1}}}}']
)
def test_malformed_files_are_ignored(text: str, tmp_path: Path) -> None:
    folder = write_run(tmp_path, "a/seed0")
    (folder / "diagnostics").mkdir()
    (folder / "diagnostics" / "task0.json").write_text(text)
    assert html(build_report(tmp_path), "title", "")
