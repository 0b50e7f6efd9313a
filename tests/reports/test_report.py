"""Tests of the report on runs with known effects."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from helpers.report import build_report, columns, tables
from helpers.runs import write_faulty, write_known_effects, write_run
from moleflow.data.tasks import ORDERS
from moleflow.reports.comparison import comparison_groups
from moleflow.reports.document import ReportOptions
from moleflow.reports.page import html, write
from moleflow.reports.reference_datasets import DATASET_SIZES
from moleflow.reports.tables import Table
from moleflow.runs.reader import read_runs
from moleflow.utils.errors import UserError


@pytest.fixture(scope="module")
def runs_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = write_known_effects(tmp_path_factory.mktemp("runs"))
    write_faulty(root / "faulty")
    return root


@pytest.fixture(scope="module")
def report(runs_folder: Path) -> dict[str, Table]:
    return tables(build_report(runs_folder, ReportOptions(target=0.6)))


def write_full_run(root: Path, dataset: str, changes: dict[str, Any] | None = None, pixel_ap: float = 0.5) -> None:
    """Write a run on all categories of a public data set."""
    name = {"mvtec": "MVTec", "visa": "VisA"}[dataset]
    target = {"dataset._target_": f"moleflow.data.datamodule.{name}DataModule"}
    run_id = f"{dataset}{len(list(root.iterdir()))}"
    write_run(root, run_id, target | (changes or {}), pixel_ap, categories=ORDERS[dataset])


def test_dataset_sizes_equal_the_number_of_categories() -> None:
    sizes = {name.replace("_", ""): len(order) for name, order in ORDERS.items()}  # names of data modules have no "_"
    assert {name: sizes[name] for name in DATASET_SIZES} == DATASET_SIZES


def test_default_targets_hold_for_pixel_ap_on_whole_data_sets(tmp_path: Path) -> None:
    write_full_run(tmp_path, "mvtec", pixel_ap=0.7)
    write_full_run(tmp_path, "visa", pixel_ap=0.3)
    write_run(tmp_path, "part", pixel_ap=0.3)
    write_run(tmp_path, "mine", {"dataset._target_": "moleflow.data.synthetic.dataset.SyntheticDataModule"}, 0.3)

    def targets(options: ReportOptions) -> dict[str, str]:
        table = tables(build_report(tmp_path, options, "overview"))["summary"]
        return {row[0].text.removesuffix(" categories"): row[-1].text for row in table.cells}

    datasets = ("mvtec, 15", "visa, 12", "mvtec, 3", "synthetic, 3")
    assert targets(ReportOptions()) == dict.fromkeys(datasets, "–") | {
        "mvtec, 15": "0.6 reached, +0.1000", "visa, 12": "0.4 missed by 0.1000"
    }  # fmt: skip
    assert targets(ReportOptions(metric="image_auroc")) == dict.fromkeys(datasets, "–")
    reached = dict.fromkeys(datasets, "0.2 reached, +0.7500")
    assert targets(ReportOptions(metric="image_auroc", target=0.2)) == reached


def test_recorded_values_are_compared_on_equal_images_only(tmp_path: Path) -> None:
    record = {"reported": {"run": "woLoRA", "pixel_ap": 0.5531, "note": None}}
    write_run(tmp_path, "part", record)
    write_full_run(tmp_path, "mvtec", record)
    write_full_run(tmp_path, "mvtec", record | {"masks": "full"})
    write_full_run(tmp_path, "visa", record)
    table = tables(build_report(tmp_path, builder="reported"))["reported"]
    indices = [list(table.columns).index(name) for name in ("data set", "difference", "tolerance", "verdict", "note")]
    rows = {cells[indices[0]].text: tuple(cells[i].text for i in indices[1:]) for cells in table.cells}
    assert rows == {
        "mvtec, 3 categories": ("–", "–", "other data set", ""),
        "visa, 12 categories": ("–", "–", "other data set", ""),
        "mvtec, 15 categories, full masks": ("–", "–", "other masks", ""),
        "mvtec, 15 categories": ("▼ -0.0531", "0.017", "worse", ""),  # recorded standard deviation of the group
    }


def test_reported_values_of_unknown_noise_and_excluded_ones_have_no_verdict(tmp_path: Path) -> None:
    write_full_run(tmp_path, "mvtec", {"reported": {"pixel_ap": 0.4, "image_auroc": 0.9}})
    excluded = {"run": "woLoRA", "pixel_ap": 0.4, "image_auroc": 0.9, "compare": False}
    write_full_run(tmp_path, "visa", {"reported": excluded | {"run": "mine"}})
    rows = columns(tables(build_report(tmp_path, builder="reported"))["reported"], "data set", "metric", "verdict")
    assert set(rows) == {
        ("mvtec, 15 categories", "pixel_ap", "no tolerance: one seed"),
        ("mvtec, 15 categories", "image_auroc", "no tolerance: one seed"),
        ("visa, 12 categories", "pixel_ap", "not compared"),
        ("visa, 12 categories", "image_auroc", "not compared"),
    }


def test_runs_with_cropped_and_full_masks_are_not_compared(tmp_path: Path) -> None:
    write_run(tmp_path, "cropped", {"masks": "cropped"})
    write_run(tmp_path, "full", {"masks": "full"}, 0.6)
    by_name = tables(build_report(tmp_path))
    assert {by_name[name].title for name in ("leaderboard1", "leaderboard2")} == {
        "mvtec, 3 categories", "mvtec, 3 categories, full masks"
    }  # fmt: skip
    assert "ablation1" not in by_name


def test_bottlenecks_are_below_the_mean(report: dict[str, Table]) -> None:
    rows = columns(report["bottlenecks1"], "category", "difference from the mean")
    assert rows == [("bottle", pytest.approx(-0.1))]


def test_interactive_parts_have_the_values_of_the_tables(runs_folder: Path) -> None:
    sections = build_report(runs_folder)
    (results,) = [section.results for section in sections if section.results]
    group: Any = results["groups"][0]  # type: ignore[index]
    values = {c["id"]: c["values"]["pixel_ap"][0] for c in group["configurations"]}
    differences = [b - a for a, b in zip(values[group["left"]], values[group["right"]], strict=True)]
    expected = columns(tables(sections)["categories1"], "difference")
    assert differences[:-1] == pytest.approx([value for (value,) in expected], abs=2e-5)
    means = {
        c.id: c.mean("pixel_ap") for c in comparison_groups(read_runs([runs_folder])[0], "pixel_ap")[0].configurations
    }
    assert {name: column[-1] for name, column in values.items()} == pytest.approx(means, abs=1e-5)


def test_data_sets_are_not_compared_with_one_another(report: dict[str, Table]) -> None:
    assert {name for (name,) in columns(report["summary"], "data set")} == {"mvtec, 3 categories", "visa, 2 categories"}
    assert len(report["leaderboard2"].rows) == 1


def test_synergy_of_two_components(report: dict[str, Table]) -> None:
    names = ("A", "B", "effect of A", "effect of B", "synergy")
    ((a, b, effect_a, effect_b, synergy),) = columns(report["synergy_pairs1"], *names)
    assert (a, b) == ("loss.tail_weight=0.7", "model.dia_blocks=2")
    assert (effect_a, effect_b, synergy) == pytest.approx((0.05, 0.01, 0.05))
    steps = columns(report["synergy_steps1"], "added", "pixel_ap")
    assert [added for added, _ in steps] == ["(start)", "model.dia_blocks", "loss.tail_weight"]


def test_measured_and_reported_values(report: dict[str, Table]) -> None:
    rows = dict(columns(report["reported"], "metric", "verdict"))
    assert rows == {"pixel_ap": "better", "image_auroc": "worse"}  # all seeds have image AUROC 0.95: tolerance 0


def test_summary_compares_best_baseline_and_target(report: dict[str, Table]) -> None:
    difference, target = columns(report["summary"], "difference", "target")[0]
    assert difference == pytest.approx(0.2)
    assert target == pytest.approx(0.1)


def test_suggested_runs_are_commands_of_untested_configurations(report: dict[str, Table]) -> None:
    commands = [command for (command,) in columns(report["suggestions1"], "command")]
    assert "moleflow train optimizer.lr=0.0009 epochs=80 loss.tail_weight=0.3 seed=0" in commands
    tested = "moleflow train -m loss.tail_weight=1.0 optimizer.lr=0.0003 seed=0,1,2"
    assert tested not in commands


CLOSED_FORM = {"steps": 0, "skipped_steps": [0, 0, 0], "epochs": [[], [], []]}


def test_closed_form_models_have_no_skipped_tasks(tmp_path: Path) -> None:
    closed_form = {"model": {"_target_": "moleflow.models.closed_form.patchcore.PatchCore"}}
    write_run(tmp_path, "closed", closed_form, training=CLOSED_FORM)
    trained = CLOSED_FORM | {"steps": 6, "epochs": [[{"loss": 1.0}], [], [{"loss": 1.0}]]}
    write_run(tmp_path, "trained", training=trained)
    rows = columns(tables(build_report(tmp_path))["warnings"], "kind", "where", "description")
    skipped = [row[1:] for row in rows if row[0] == "skipped task"]
    assert skipped == [("trained", "Task 2 was not trained for a single epoch.")]


def test_only_relevant_keys_are_suggested(tmp_path: Path) -> None:
    base = {"model.size": 3, "scoring.percentile": 0.9}
    changes = {"epochs": 3, "loss.tail_weight": 0.1, "optimizer.lr": 0.1, "model.size": 9, "scoring.percentile": 0.5}
    write_run(tmp_path, "flow", base, 0.3)
    for key, value in changes.items():
        write_run(tmp_path, f"flow_{key}", base | {key: value}, 0.2)
    write_run(tmp_path, "ensemble", base | {"ensemble": [{}, {"epochs": 3}]}, 0.6)
    write_run(tmp_path, "closed", base | {"model._target_": "PatchCore"}, 0.5, training=CLOSED_FORM)
    write_run(tmp_path, "quantile", base | {"scoring.aggregation": "percentile", "epochs": 9}, 0.4)
    by_name = tables(build_report(tmp_path))
    ranked = [name for (name,) in columns(by_name["leaderboard1"], "id")]
    rows = columns(by_name["suggestions1"], "id", "key")
    keys = [{key for other, key in rows if other == name} for name in ranked[:3]]
    assert keys == [set(), {"model.size"}, set(changes)]


def test_folders_without_results_are_warnings(report: dict[str, Table]) -> None:
    kinds = {Path(str(where)).name: kind for kind, where in columns(report["warnings"], "kind", "where")}
    assert kinds["crashed"] == "failed"
    assert {kinds[name] for name in ("stopped", "resumed")} == {"unfinished"}
    assert {kinds[name] for name in ("cut", "no_config", "bad_yaml", "gone", "binary")} == {"damaged"}
    assert kinds["foreign"] == "unrecognized"
    assert kinds["seed0"] == "skipped steps"


def test_overfitting_is_a_warning(tmp_path: Path) -> None:
    nll = [(9.0, 9.0), (5.0, 6.0), (3.0, 7.0), (1.0, 8.0)]
    epochs = [{"epoch": float(i), "nll_mean": t, "held_out_nll": v} for i, (t, v) in enumerate(nll)]
    training = {"steps": 6, "skipped_steps": [0, 0, 0], "epochs": [epochs[:3], epochs, [{"epoch": "x"}]]}
    write_run(tmp_path, "a/seed0", training=training)
    rows = columns(tables(build_report(tmp_path))["warnings"], "kind", "description")
    assert [description for kind, description in rows if kind == "overfitting"] == [
        "Task 2: from epoch 1 to 3 the training NLL fell from 5.0 to 1.0 while the validation NLL rose from 6.0 to 8.0."
    ]


def test_routing_accuracy_has_a_task_matrix(tmp_path: Path) -> None:
    write_run(tmp_path, "a/seed0")
    sections = build_report(tmp_path)
    assert columns(tables(sections)["continual1"], "forgetting of routing_accuracy") == [(0.15,)]
    assert any(name.startswith("matrix_routing_accuracy") for name in tables(sections))


def test_single_seeds_are_untested_with_a_warning(tmp_path: Path) -> None:
    write_run(tmp_path, "a", {}, 0.5)
    write_run(tmp_path, "b", {"epochs": 10}, 0.6)
    by_name = tables(build_report(tmp_path))
    assert columns(by_name["ablation1"], "verdict") == [("untested",)]
    assert "too few seeds" in {kind for (kind,) in columns(by_name["warnings"], "kind")}


def test_all_files_have_the_tables_and_need_no_network(runs_folder: Path, tmp_path: Path) -> None:
    page = write(build_report(runs_folder), tmp_path, "T", "S").read_text()
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert 'src="http' not in page
    csv = (tmp_path / "tables" / "leaderboard1.csv").read_text().splitlines()
    assert len(csv) == 11
    assert re.search(r"\| 2 \| c[0-9a-f]{7} \| loss.tail_weight=1.0 \|", (tmp_path / "report.md").read_text())


def test_missing_folders_and_configurations_are_user_errors(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not a folder"):
        build_report(tmp_path / "nothing")
    write_run(tmp_path, "a")
    with pytest.raises(UserError, match="--baseline C9: no configuration"):
        build_report(tmp_path, ReportOptions(baseline="C9"))


def test_a_folder_without_runs_results_in_a_page(tmp_path: Path) -> None:
    assert html(build_report(tmp_path), "title", "")


def test_the_report_imports_neither_torch_nor_hydra() -> None:
    forbidden = {"torch", "lightning", "hydra", "omegaconf"}
    code = f"import moleflow.reports.page, sys; assert not {forbidden} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": ":".join(sys.path)})
