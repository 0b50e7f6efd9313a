"""Tests of the report on run folders that are damaged or come from strangers."""

import csv
import io
import re
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from helpers.hostile import ESCAPES, HARMLESS, REFUSED, write_hostile
from helpers.report import build_report, tables
from helpers.runs import write_run
from moleflow.cli.command import exit_status
from moleflow.reports.page import html, markdown, write
from moleflow.reports.tables import Cell, Table, latex_text
from moleflow.runs.reader import read_runs
from moleflow.utils.errors import UserError
from moleflow.utils.text import one_line, printable, spreadsheet_text

CONTROL = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\ud800-\udfff]")


@pytest.fixture
def without_drawing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Figure, "savefig", lambda self, out, **options: out.write(b"<svg/>"))


def test_refused_folders_are_listed_with_a_reason_beside_the_others(tmp_path: Path, without_drawing: None) -> None:
    write_hostile(tmp_path)
    write_run(tmp_path, "good")
    runs, faults = read_runs([tmp_path])
    assert [run.run_id for run in runs] == ["good"]
    reasons = {fault.folder.name: fault.reason for fault in faults}
    assert reasons.keys() == REFUSED.keys()
    for name, (_, reason) in REFUSED.items():
        assert reason in reasons[name], name
        assert len(reasons[name]) <= 310
    page = write(build_report(tmp_path), tmp_path / "out", "title", "").read_text(encoding="utf-8")
    assert all(f"/{name}</a>" in page.replace("<wbr>", "") for name in REFUSED)
    assert not CONTROL.search(page)


def test_odd_content_is_displayed_as_text(tmp_path: Path, without_drawing: None) -> None:
    for name, attack in HARMLESS.items():  # each on a data set of its own, of which it is the best run
        changes = {"dataset._target_": f"moleflow.{name}DataModule", "loss.tail_weight": 1.0}
        attack(write_run(tmp_path / "runs", f"{name}/hostile", changes, pixel_ap=0.8))
    for name in ("mathtext", "escapes", "not_a_number"):  # compared with another configuration
        write_run(tmp_path / "runs", f"{name}/good", {"dataset._target_": f"moleflow.{name}DataModule"})
    runs, faults = read_runs([tmp_path / "runs"])
    assert (len(runs), faults) == (len(HARMLESS) + 3, [])
    page = write(build_report(tmp_path / "runs"), tmp_path / "out", "title", "").read_text(encoding="utf-8")
    report = (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    for text in (page, report):
        assert not CONTROL.search(text)
        assert "<script>alert" not in text
    for path in (tmp_path / "out" / "tables").glob("*.csv"):
        for row in csv.reader(io.StringIO(path.read_text(encoding="utf-8"))):
            assert not any(re.match(r"\s*[=+@-]\s*[A-Za-z]", cell) for cell in row), path.name


@pytest.mark.parametrize("builder", ["effects", "images"])
def test_mathematical_text_in_names_is_drawn_as_text(builder: str, tmp_path: Path) -> None:
    HARMLESS["mathtext"](write_run(tmp_path, "mathtext", {"optimizer.lr": r"$\frac{"}, pixel_ap=0.8))
    write_run(tmp_path, "good", {"optimizer.lr": "1e999"}, categories=("bottle",))
    assert html(build_report(tmp_path, builder=builder), "title", "")


def test_reasons_name_what_is_not_displayed(tmp_path: Path, without_drawing: None) -> None:
    folder = write_run(tmp_path, "hostile")
    for name in ("scores_nan", "image_link", "defects_pipe", "diagnostics_pipe"):
        HARMLESS[name](folder)
    text = markdown(build_report(tmp_path), "title", "")
    assert "scores.csv is damaged after 0 rows (image_score=nan, label=0)" in text
    assert "examples_a.jpg is a symbolic link" in text
    assert "defects.json is not a regular file" in text
    assert "task0.json is not a regular file" in text


def test_a_link_to_the_folder_of_images_is_not_followed(tmp_path: Path, without_drawing: None) -> None:
    folder = write_run(tmp_path / "runs", "a")
    (tmp_path / "private").mkdir()
    (tmp_path / "private" / "examples_a.jpg").write_bytes(b"private")
    (folder / "pictures").symlink_to(tmp_path / "private")
    assert "is a symbolic link and must be a folder" in markdown(build_report(tmp_path / "runs"), "title", "")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("=1+1", "'=1+1"),
        ("+a", "'+a"),
        ("-a", "'-a"),
        ("@a", "'@a"),
        (" =a", "' =a"),
        ("\t=a", r"\t=a"),
        ("a=b", "a=b"),
    ],
)
def test_formulas_are_quoted_in_csv(text: str, expected: str) -> None:
    assert spreadsheet_text(text) == expected
    assert Table("t", "t", [text], [[text]]).csv().splitlines() == [expected, expected]


def test_texts_are_escaped_in_markdown_and_latex() -> None:
    assert Cell("a|b\n<b>").markdown() == r"a\|b \<b\>"
    assert Cell("a`|b", emphasis="code").markdown() == r"`` a`\|b ``"
    assert latex_text(r"50 % of a_b \input{x}") == r"50 \% of a\_b \textbackslash{}input\{x\}"


def test_control_characters_are_escaped() -> None:
    assert printable("a\tb\n\u2003é\u202e") == "a\\tb\n é\\u202e"
    assert one_line("a\nb" * 9, 5) == "a ba…"


def test_errors_do_not_send_control_sequences_to_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> int:
        raise UserError(ESCAPES)

    assert exit_status(fail) == 1
    assert capsys.readouterr().err == "\\x1b]0;title\\x07\\x1b[31mred\n"


def test_the_number_of_run_folders_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("moleflow.runs.reader.MAX_RUNS", 2)
    for name in "abc":
        write_run(tmp_path, name)
    runs, (fault,) = read_runs([tmp_path])
    assert ([run.run_id for run in runs], fault.kind) == (["a", "b"], "too many")
    assert "only the first 2 run folders are read" in tables(build_report(tmp_path))["warnings"].csv().lower()
