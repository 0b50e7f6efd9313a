"""The diagnostics in the report: shown where runs have them, with the numbers of the files; garbage is left out."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from helpers.runs import CATEGORIES, write_run
from moleflow.report.__main__ import main
from moleflow.report.content import Options, Section
from moleflow.report.page import build
from moleflow.report.plots import Plot
from moleflow.report.runs import read_runs
from moleflow.report.tables import Table


def expert(sd: float, lora: bool = True) -> dict[str, Any]:
    return {
        "pictures": 4,
        "log_determinant": {"mean": 10.0, "sd": sd, "correlation_with_square": -0.5},
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


def section_of(root: Path, out: Path) -> Section | None:
    runs, faults = read_runs([root])
    return next((s for s in build(runs, faults, Options(), out) if s.name == "diagnostics"), None)


def test_no_section_without_files(tmp_path: Path) -> None:
    write_run(tmp_path / "runs", "a/seed0")
    assert section_of(tmp_path / "runs", tmp_path) is None


def test_a_row_for_each_expert_and_four_plots(tmp_path: Path) -> None:
    add_diagnostics(write_run(tmp_path / "runs", "a/seed0", pixel_ap=0.6))
    add_diagnostics(write_run(tmp_path / "runs", "b/seed0", {"model.lora_rank": 0}, 0.4), lora=False)
    write_run(tmp_path / "runs", "c/seed0", {"epochs": 3}, 0.9)
    found = section_of(tmp_path / "runs", tmp_path)
    assert found is not None
    table = next(block for block in found.blocks if isinstance(block, Table))
    columns = list(table.columns)
    by_expert = [dict(zip(columns, row, strict=True)) for row in table.cells]
    assert [row["expert"].text for row in by_expert] == [*CATEGORIES, *CATEGORIES]
    assert [row["log-det sd"].value for row in by_expert] == [1.0, 2.0, 3.0] * 2
    assert [row["tail's share of the gradient"].value for row in by_expert] == [0.6] * 6
    assert [row["LoRA effective rank"].text for row in by_expert] == ["2"] * 3 + ["–"] * 3
    assert {row["least margin at the end"].value for row in by_expert} == {-1.0}
    plots = [block for block in found.blocks if isinstance(block, Plot)]
    assert len(plots) == 4
    drawn = base64.b64decode(plots[3].uri.partition(",")[2]).decode()
    assert all(category in drawn for category in CATEGORIES)


def test_what_a_model_lacks_is_said_in_place_of_a_plot(tmp_path: Path) -> None:
    add_diagnostics(write_run(tmp_path / "runs", "b/seed0"), lora=False)
    found = section_of(tmp_path / "runs", tmp_path)
    assert found is not None
    assert len([block for block in found.blocks if isinstance(block, Plot)]) == 3
    (said,) = [block for block in found.blocks if isinstance(block, str)]
    assert said.startswith("Singular values of the LoRA updates: no such quantity")


@pytest.mark.parametrize(
    "text", ["[1]", "{", '{"experts": {"a": 3}, "router": [2]}', '{"experts": {"a": {"tail": {}, "latent": {"x": 1}}}}']
)
def test_garbage_is_no_crash(text: str, tmp_path: Path) -> None:
    folder = write_run(tmp_path / "runs", "a/seed0")
    (folder / "diagnostics").mkdir()
    (folder / "diagnostics" / "task0.json").write_text(text)
    assert main([str(tmp_path / "runs"), "-o", str(tmp_path / "out")]) == 0
