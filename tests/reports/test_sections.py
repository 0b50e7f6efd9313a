"""Tests of the report's sections on runs with known effects: names, benchmark, recommendation, target, ranges."""

import json
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from helpers.report import build_report, columns, tables
from helpers.runs import write_known_effects, write_run
from moleflow.reports.comparison import comparison_groups
from moleflow.reports.document import Panel, ReportOptions, Section, Sentence
from moleflow.reports.page import SECTIONS, html, write
from moleflow.reports.sections.target import required_level
from moleflow.reports.tables import Table
from moleflow.runs.reader import read_runs


@pytest.fixture(scope="module")
def runs_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_known_effects(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def sections(runs_folder: Path) -> list[Section]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "savefig", lambda self, out, **options: out.write(b"<svg/>"))
        return build_report(runs_folder, ReportOptions(target=0.75))


@pytest.fixture(scope="module")
def report(sections: Sequence[Section]) -> dict[str, Table]:
    return tables(sections)


def names(root: Path) -> dict[str, tuple[str, str]]:
    """Return id and label of each configuration by its first run."""
    groups = comparison_groups(read_runs([root])[0], "pixel_ap")
    return {c.runs[0].run_id: (c.id, c.label) for group in groups for c in group.configurations}


def test_ids_do_not_depend_on_other_runs_and_their_place(tmp_path: Path) -> None:
    write_run(tmp_path / "a", "main/seed0")
    write_run(tmp_path / "a", "lr/seed0", {"optimizer.lr": 1e-4}, 0.4)
    before = names(tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    write_run(tmp_path / "b", "lr/seed1", {"optimizer.lr": 1e-4, "dataset.root": "/elsewhere"}, 0.9, seed=1)
    write_run(tmp_path / "b", "epochs/seed0", {"epochs": 5}, 0.8)
    after = names(tmp_path / "b")
    assert {run: after[run][0] for run in before} == {run: name for run, (name, _) in before.items()}
    assert len({name for name, _ in after.values()}) == 3
    for name, label in after.values():  # both are values of --baseline and --compare
        for value in (name, label):
            sections = build_report(tmp_path / "b", ReportOptions(baseline=value, compare=(value, name)), "baseline")
            assert name in tables(sections)["baseline1"].title


def test_labels_have_what_differs(tmp_path: Path) -> None:
    common = ["transform.size=64", "trainer=cpu"]
    settings = [
        ("default", {}),
        ("w", {"loss.tail_weight": 0.1}),
        ("lr", {"optimizer.lr": 0.1, "loss.tail_weight": 0.1}),
    ]
    for run_id, changes in settings:
        overrides = [*common, *(f"{key}={value}" for key, value in changes.items())]
        write_run(tmp_path, run_id, changes, overrides=overrides)
    write_run(tmp_path, "edited", {"epochs": 7}, overrides=common)  # the command does not have the difference
    assert {run: label for run, (_, label) in names(tmp_path).items()} == {
        "default": "main (epochs=60)", "w": "loss.tail_weight=0.1", "lr": "loss.tail_weight=0.1, optimizer.lr=0.1",
        "edited": "main (epochs=7)",
    }  # fmt: skip


def test_sections_are_in_a_readers_order_and_the_twelve_parts_are_listed(sections: Sequence[Section]) -> None:
    order = [section.name for section in sections]
    expected = ["overview", "benchmark", "effects", "recommendation", "conclusions", "target", "backbones", "ranges"]
    expected += ["continual", "warnings", "runs"]
    assert [name for name in order if name in expected] == expected
    parts = columns(tables(sections)["contents"], "part", "section")
    assert [number for number, _ in parts] == list(range(1, 13))
    page = html(sections, "title", "")
    for cell in (row[2] for row in tables(sections)["contents"].cells):
        assert f'id="{cell.href[1:]}"' in page
    assert len({builder.__name__ for builder in SECTIONS}) == len(SECTIONS)


def test_every_evidence_of_a_conclusion_exists(sections: Sequence[Section], report: dict[str, Table]) -> None:
    page = html(sections, "title", "")
    rows = report["conclusions1"].cells
    assert len(rows) > 8
    assert all(f'id="{evidence.href[1:]}"' in page for _, evidence in rows)
    text = "\n".join(conclusion.text for conclusion, _ in rows)
    assert "It exceeds the baseline main" in text
    assert re.search(r"loss.tail_weight from 0.7 to 0 lowers pixel_ap by -0.1000 \[-0.1000, -0.1000\]", text)
    assert "No tested value of epochs, optimizer.lr changes pixel_ap significantly." in text
    assert "bottle has the lowest pixel_ap in 10 of 10 configurations." in text


def test_the_first_screen_has_the_result_in_words(sections: Sequence[Section]) -> None:
    texts = ["".join(c.text for c in block.cells) for block in sections[0].blocks if isinstance(block, Sentence)]
    assert "24 runs of 10 configurations" not in texts[0]  # of one data set only
    assert texts[0].startswith("25 runs of 11 configurations with 3 seeds on mvtec, 3 categories (bottle, cable, pill)")
    assert texts[1].startswith("Best: epochs=80, optimizer.lr=0.0009 with pixel_ap 0.7000 (one seed), +0.2000 [+0.1950")
    assert any(text.startswith("skipped steps: ") for text in texts)


def test_images_of_defects_are_on_the_first_screen(tmp_path: Path) -> None:
    folder = write_run(tmp_path, "a")
    (folder / "pictures").mkdir()
    descriptions = {}
    for rank in ("best", "median", "worst"):
        Image.new("RGB", (60, 20)).save(folder / "pictures" / f"defect_{rank}.jpg")
        descriptions[rank] = {"category": "bottle", "image": f"bad/{rank}.png", "separation": 2.0, "has_mask": True}
    (folder / "pictures" / "defects.json").write_text(json.dumps(descriptions))
    page = html(build_report(tmp_path, builder="overview"), "title", "")
    assert page.count("data:image/jpeg;base64,") == 3
    assert all(f"bottle/bad/{rank}.png. Image, ground truth, anomaly map. Score +2.0" in page for rank in descriptions)


def test_benchmark_marks_best_and_second_and_has_the_means(report: dict[str, Table]) -> None:
    table = report["benchmark1_pixel_ap"]
    assert table.columns[1].startswith("epochs=80, optimizer.lr=0.0009 (c")
    assert [row[0].text for row in table.cells] == ["bottle", "cable", "pill", "mean"]
    for row in table.cells:
        assert [cell.emphasis for cell in row[1:]] == ["best", "second", "", "", ""]
    assert [cell.value for cell in table.cells[-1][1:3]] == pytest.approx([70.0, 52.0])


def test_benchmark_columns_are_selected(runs_folder: Path) -> None:
    def selected(*benchmark: str) -> list[str]:
        table = tables(build_report(runs_folder, ReportOptions(benchmark=benchmark), "benchmark"))[
            "benchmark1_pixel_ap"
        ]
        return [column.rpartition(" (")[0] for column in table.columns[1:]]

    assert len(selected("all")) == 10
    assert selected("pareto") == ["epochs=80, optimizer.lr=0.0009", "loss.tail_weight=1.0", selected("all")[-1]]
    assert selected("main/lr/seed0", "main") == ["optimizer.lr=0.0001", "main"]


def test_oracle_columns_are_shown_if_they_differ(tmp_path: Path) -> None:
    write_run(tmp_path, "a", oracle={"pixel_ap": 0.6})
    write_run(tmp_path, "b", {"epochs": 3}, 0.55, oracle={"pixel_ap": 0.55})
    table = tables(build_report(tmp_path, builder="benchmark"))["benchmark1_pixel_ap"]
    assert [column.endswith("oracle") for column in table.columns] == [False, False, False, True, True]
    assert [(cell.text, cell.emphasis) for cell in table.cells[-1][1:]] == [
        ("55.00", "best"), ("50.00", "second"), ("55.00", "second"), ("60.00", "best")
    ]  # fmt: skip


def test_the_lowest_false_alarm_rate_is_the_best(tmp_path: Path) -> None:
    for run_id, rate in (("a", 0.1), ("b", 0.3)):
        folder = write_run(tmp_path, run_id, {"epochs": int(100 * rate)})
        metrics = json.loads((folder / "metrics.json").read_text())
        metrics["decisions"] = {"false_alarm_rate": rate, "recall": 0.9}
        for values in metrics["per_category"].values():
            values["decisions"] = metrics["decisions"]
        (folder / "metrics.json").write_text(json.dumps(metrics))
    (section,) = build_report(tmp_path, builder="benchmark")
    table = next(table for table in section.files if table.name == "benchmark1_false_alarm_rate")
    assert sorted((c.text, c.emphasis) for c in table.cells[-1][1:]) == [("10.00", "best"), ("30.00", "second")]
    assert "recall" in tables(build_report(tmp_path, builder="leaderboard"))["leaderboard1"].columns


def test_benchmarks_are_written_as_latex(sections: Sequence[Section], tmp_path: Path) -> None:
    write(sections, tmp_path, "title", "")
    text = (tmp_path / "tables" / "benchmark1_pixel_ap.tex").read_text()
    body = text[text.index(r"\toprule") : text.index(r"\bottomrule")]
    assert [line.count("&") for line in body.splitlines() if line.endswith(r"\\")] == [5] * 5
    assert body.count(r"\midrule") == 2
    assert body.count(r"\textbf") == 5  # four rows, and the word mean
    assert body.count(r"\underline") == 4
    document = r"\documentclass{article}\usepackage{booktabs,graphicx}\begin{document}\input{tables/%s}\end{document}"
    if shutil.which("pdflatex"):
        for name in ("benchmark1_pixel_ap", "benchmark2_pixel_ap"):
            (tmp_path / "paper.tex").write_text(document % name)
            command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "paper.tex"]
            done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
            assert done.returncode == 0, done.stdout[-2000:]
            assert "Overfull" not in done.stdout


def test_the_recommendation_adds_measured_effects(report: dict[str, Table]) -> None:
    rows = columns(report["recommendation1"], "configuration", "expected pixel_ap", "command")
    assert rows[0][1] == pytest.approx(0.70)
    assert rows[0][2] == "moleflow train optimizer.lr=0.0009 epochs=80 seed=0"
    assert rows[1] == (
        "the best one with loss.tail_weight=1",
        pytest.approx(0.72),
        "moleflow train optimizer.lr=0.0009 epochs=80 loss.tail_weight=1 seed=0",
    )
    assert len(rows) == 2


def test_the_target_requires_gains_of_the_weakest_categories(report: dict[str, Table]) -> None:
    assert columns(report["target_gains1"], "category", "required", "gain") == [
        ("bottle", pytest.approx(0.725), pytest.approx(0.125)), ("cable", pytest.approx(0.725), pytest.approx(0.025))
    ]  # fmt: skip
    assert columns(report["target"], "distance")[0] == (pytest.approx(-0.05),)


@pytest.mark.parametrize("seed", range(20))
def test_the_required_level_reaches_the_goal(seed: int) -> None:
    rng = np.random.default_rng(seed)
    values, goal = dict(enumerate(rng.random(rng.integers(1, 9)))), float(rng.random())
    level = required_level({str(k): float(v) for k, v in values.items()}, goal)
    if level is None:
        assert np.mean(list(values.values())) >= goal
    else:
        assert np.mean([max(value, level) for value in values.values()]) == pytest.approx(goal)


def test_recommended_ranges_leave_out_significantly_worse_values(report: dict[str, Table]) -> None:
    rows = {str(row[0]): row[1:] for row in columns(report["ranges1"], "key", "best value", "recommended", "reason")}
    best, recommended, reason = rows["loss.tail_weight"]
    assert (best, recommended) == ("1", "1")
    assert "0.3 (-0.0600)" in str(reason)
    assert "the best value is the highest tested" in str(reason)
    assert rows["optimizer.lr"][1] == "0.0001, 0.0003"


def test_verdicts_of_ranges_are_adjusted_for_all_tests(tmp_path: Path) -> None:
    """A difference alone is significant, but not as one of many tests."""
    for seed, shift in ((0, 0.0), (1, 0.02), (2, 0.05)):
        write_run(tmp_path, f"main/seed{seed}", {}, 0.5 + shift, seed=seed)
        write_run(tmp_path, f"lr/seed{seed}", {"optimizer.lr": 1.0}, 0.48 + shift * 0.8, seed=seed)
    (alone,) = columns(tables(build_report(tmp_path, builder="ranges"))["ranges1"], "recommended")
    for i in range(6):
        for seed, shift in ((0, 0.0), (1, 0.02), (2, 0.05)):
            write_run(tmp_path, f"k{i}/seed{seed}", {f"loss.k{i}": 1.0}, 0.5 + shift - 0.001 * seed, seed=seed)
    table = tables(build_report(tmp_path, builder="ranges"))["ranges1"]
    among_others = dict(columns(table, "key", "recommended"))["optimizer.lr"]
    assert (alone, among_others) == (("0.0003",), "0.0003, 1")


def test_categories_are_classified_by_difficulty(report: dict[str, Table]) -> None:
    rows = columns(report["difficulty1"], "difficulty", "categories")
    assert rows == [("hard", "bottle"), ("medium", "cable"), ("easy", "pill")]


def test_matrices_without_information_are_sentences(tmp_path: Path) -> None:
    matrix = {"tasks": [["bottle"], ["cable"]], "routing_accuracy": [[1.0], [1.0, 1.0]]}
    write_run(tmp_path, "constant", task_matrix=matrix | {"pixel_ap": [[0.5], [0.5, 0.7]]})
    (section,) = build_report(tmp_path, builder="continual")
    (panel,) = [block for block in section.blocks if isinstance(block, Panel)]
    assert not panel.tables
    for text in (
        "bottle 0.5000, cable 0.7000",
        "routing_accuracy is 100 % on all tasks",
        "All 30 test images are routed",
    ):
        assert text in panel.note


def test_a_task_matrix_has_the_forgetting_of_each_task(tmp_path: Path) -> None:
    matrix = {"tasks": [["bottle"], ["cable"]], "pixel_ap": [[0.8], [0.5, 0.7]]}
    routing = {"experts": ["bottle", "cable"], "counts": {"bottle": {"bottle": 3, "cable": 1}, "cable": {"cable": 4}}}
    write_run(tmp_path, "a", task_matrix=matrix, routing=routing, routing_accuracy=0.9)
    (section,) = build_report(tmp_path, builder="continual")
    (panel,) = [block for block in section.blocks if isinstance(block, Panel)]
    forgetting, counts = panel.tables
    assert [cell.text for cell in forgetting.cells[-1]] == ["forgetting", "0.300", "0.000"]
    assert [[cell.text for cell in row] for row in counts.cells] == [["bottle", "75", "25"], ["cable", "0", "100"]]
    assert counts.cells[0][1].shade == 0.75


def test_augmentations_that_were_chosen_are_listed(tmp_path: Path) -> None:
    folder = write_run(tmp_path, "main/seed0")
    metrics = json.loads((folder / "metrics.json").read_text())
    category = sorted(metrics["per_category"])[0]
    choice = {"augmentation": "flips", "training_images": 30, "compared_images": 24}
    evidence = {"auroc": {"flips": 0.5, "rotations": 1.0, "all": float("inf")}, "reduction": {"flips": 0.125}}
    metrics["augmentations"] = {category: choice | evidence, "other": choice}
    (folder / "metrics.json").write_text(json.dumps(metrics).replace("Infinity", "null"))
    table = tables(build_report(tmp_path, ReportOptions(), "per_category"))["augmentations1"]
    (cells,) = table.cells
    assert [cell.text for cell in cells[:1]] == [category]
    assert [cell.text for cell in cells[2:]] == ["flips", "30", "24", "0.50", "0.12", "1.00", "–", "–", "–"]
