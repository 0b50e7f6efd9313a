"""Tests of the catalogue with runs of known metrics."""

from pathlib import Path

import pytest
import yaml

from helpers.composing import CONF, once
from helpers.runs import write_faulty
from helpers.runs import write_run as write_any_run
from moleflow.catalogue.entries import entries, match_runs
from moleflow.catalogue.table import catalogue_table, entry_verdict
from moleflow.runs.reader import Run, read_runs
from moleflow.utils.errors import UserError

ENTRIES = {entry.key: entry for entry in entries(CONF)}


@pytest.fixture(autouse=True)
def _composed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compose each entry once for all tests."""
    monkeypatch.setattr("moleflow.catalogue.entries.resolve", lambda conf, overrides: once(*overrides))


def write_run(root: Path, run_id: str, overrides: list[str], pixel_ap: float) -> None:
    """Write a finished run of a command with image AUROC 0.98."""
    folder = write_any_run(root, run_id, pixel_ap=pixel_ap, image_auroc=0.98, overrides=overrides)
    config = once(*overrides) | {"logger": {"csv": {"save_dir": str(folder)}}}
    (folder / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")


def run_with(pixel_ap: float) -> Run:
    return Run(Path("run"), "run", {"seed": 0}, {"pixel_ap": pixel_ap})


def test_runs_match_the_entry_of_their_configuration(tmp_path: Path) -> None:
    write_run(tmp_path, "a", ["+experiment=tailw0.8", "seed=0"], 0.54)
    write_run(tmp_path, "b", ["+experiment=tailw0.8", "seed=1", "name=other", "dataset.root=/x"], 0.56)
    write_run(tmp_path, "c", ["+experiment=tailw0.8", "epochs=1"], 0.1)
    write_run(tmp_path, "d", ["+experiment=mole6_dia2", "+ablation=wo_lora"], 0.5)
    matches = match_runs(CONF, list(ENTRIES.values()), read_runs([tmp_path])[0])
    assert {key: [run.folder.name for run in runs] for key, runs in matches.items()} == {
        ("experiment", "tailw0.8"): ["a", "b"],
        ("ablation", "wo_lora"): ["d"],
    }
    assert entry_verdict(ENTRIES["experiment", "tailw0.8"], matches["experiment", "tailw0.8"]) == "match"
    table = catalogue_table(tmp_path, "report")
    (line,) = [line for line in table.splitlines() if line.startswith("tailw0.8 ")]
    assert line.split()[:8] == ["tailw0.8", "report", "0.9811", "0.5447", "0.9800", "0.5500", "2", "match"]


def test_runs_of_every_model_are_in_the_table(tmp_path: Path) -> None:
    models = {path.stem for path in (CONF / "model").glob("*.yaml")} - {"moleflow"}
    for model in models:
        for seed in (0, 1):
            write_run(tmp_path, f"{model}{seed}", [f"model={model}", f"seed={seed}"], 0.5)
    write_run(tmp_path, "moleflow", ["model=moleflow", "view=paper"], 0.5)  # equals the experiment mole6_dia2
    rows = [line.split() for line in catalogue_table(tmp_path).splitlines()]
    seeds = {row[1]: row[5] for row in rows if row[3:5] == ["0.9800", "0.5000"] and row[6:] == ["no", "entry"]}
    assert seeds == {f"model={model}": "2" for model in models}
    assert sum("0.9800" in row for row in rows) == len(models) + 1


def test_folders_without_results_are_listed_below_the_table(tmp_path: Path) -> None:
    write_run(tmp_path, "a", ["+experiment=tailw0.8"], 0.54)
    write_faulty(tmp_path / "faulty")
    (incomplete := write_any_run(tmp_path, "incomplete")).joinpath("config.yaml").write_text("dataset: {}")
    table = catalogue_table(tmp_path, "report")
    assert " match " in table
    assert f"{tmp_path / 'faulty' / 'bad_yaml'} (damaged): " in table
    assert f"{tmp_path / 'faulty' / 'crashed'} (failed): task 2/3 cable: the loss is nan" in table
    assert str(incomplete) not in table  # a run without an entry
    assert "no entry" in catalogue_table(tmp_path)


@pytest.mark.parametrize(
    ("name", "pixel_ap", "verdict"),
    [
        ("tailw0.8", 0.5387, "match"), ("tailw0.8", 0.5386, "worse"), ("tailw0.8", 0.5508, "better"),
        ("mole6_dia2", 0.5410, "match"), ("mole6_dia2", 0.5409, "worse"), ("wo_dia", 0.9, "not compared"),
        ("visa_tailw0.8_lr3e-4", 0.303, "match"), ("visa_tailw0.8_lr3e-4", 0.40, "better"),
        ("tailw0.85", 0.5, "not compared"),
    ],
)  # fmt: skip
def test_verdict_of_a_single_seed_uses_the_recorded_tolerance(name: str, pixel_ap: float, verdict: str) -> None:
    assert entry_verdict(ENTRIES["experiment", name], [run_with(pixel_ap)]) == verdict


def test_entries_without_runs_are_not_run() -> None:
    assert entry_verdict(ENTRIES["experiment", "tailw0.8"], []) == "not run"


def test_missing_folders_and_unknown_groups_are_user_errors(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not a folder"):
        catalogue_table(tmp_path / "nowhere")
    with pytest.raises(UserError, match="--group=visas has no entries"):
        catalogue_table(group="visas")
