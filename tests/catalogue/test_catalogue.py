"""The catalogue against run folders whose numbers are known."""

import json
from pathlib import Path

import pytest
import yaml

from helpers.composing import CONF, once
from moleflow.catalogue.__main__ import main, table
from moleflow.catalogue.entries import entries
from moleflow.catalogue.measured import finished_runs, means, measured, verdict

ENTRIES = {(entry.kind, entry.name): entry for entry in entries(CONF)}


@pytest.fixture(autouse=True)
def _composed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the same entry composed once, for the lists here and for the other tests of the catalogue."""
    monkeypatch.setattr("moleflow.catalogue.measured.resolved", lambda conf, overrides: once(*overrides))


def write_run(folder: Path, overrides: list[str], pixel_ap: float) -> None:
    """Write what a finished run of a command line leaves, with numbers of our choice."""
    folder.mkdir(parents=True)
    config = once(*overrides) | {"logger": {"csv": {"save_dir": str(folder)}}}
    (folder / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    metrics = {"status": "finished", "image_auroc": 0.98, "pixel_ap": pixel_ap, "overrides": overrides}
    (folder / "metrics.json").write_text(json.dumps(metrics), encoding="utf-8")


def test_a_run_belongs_to_its_configuration_whatever_its_name(tmp_path: Path) -> None:
    write_run(tmp_path / "a", ["+experiment=tailw0.8", "seed=0"], 0.54)
    write_run(tmp_path / "b", ["+experiment=tailw0.8", "seed=1", "name=other", "dataset.root=/x"], 0.56)
    write_run(tmp_path / "c", ["+experiment=tailw0.8", "epochs=1"], 0.1)
    write_run(tmp_path / "d", ["+ablation=wo_lora"], 0.5)
    found = measured(CONF, list(ENTRIES.values()), finished_runs(tmp_path))
    assert {key: [run.folder.name for run in runs] for key, runs in found.items()} == {
        ("experiment", "tailw0.8"): ["a", "b"],
        ("ablation", "wo_lora"): ["d"],
    }
    values = means(found["experiment", "tailw0.8"])
    assert values["pixel_ap"] == pytest.approx(0.55)
    assert verdict(ENTRIES["experiment", "tailw0.8"], values) == "match"
    text = table(tmp_path, "report")
    (line,) = [line for line in text.splitlines() if line.startswith("tailw0.8 ")]
    assert line.split()[:8] == ["tailw0.8", "report", "0.9811", "0.5447", "0.9800", "0.5500", "2", "match"]


def test_a_run_of_any_model_is_in_the_table(tmp_path: Path) -> None:
    models = {path.stem for path in (CONF / "model").glob("*.yaml")} - {"moleflow"}
    for model in models:
        for seed in (0, 1):
            write_run(tmp_path / f"{model}{seed}", [f"model={model}", f"seed={seed}"], 0.5)
    write_run(tmp_path / "moleflow", ["model=moleflow"], 0.5)  # the default: mole6_dia2 is another name of it
    lines = [line for line in table(tmp_path).splitlines() if " 0.9800  0.5000 " in line]
    without = {line.split()[1]: line.split()[5] for line in lines if "no entry" in line}
    assert without == {f"model={model}": "2" for model in models}
    assert len(lines) == len(models) + 1


@pytest.mark.parametrize(
    ("name", "pixel_ap", "said"),
    [
        ("tailw0.8", 0.5387, "match"), ("tailw0.8", 0.5386, "worse"), ("tailw0.8", 0.5508, "better"),
        ("mole6_dia2", 0.5410, "match"), ("mole6_dia2", 0.5409, "worse"), ("wo_dia", 0.9, "not compared"),
        ("visa_tailw0.8_lr3e-4", 0.303, "match"), ("visa_tailw0.8_lr3e-4", 0.40, "better"),
        ("tailw0.85", 0.5, "not compared"),
    ],
)  # fmt: skip
def test_verdict(name: str, pixel_ap: float, said: str) -> None:
    assert verdict(ENTRIES["experiment", name], {"pixel_ap": pixel_ap}) == said


def test_no_run_is_said_so() -> None:
    assert verdict(ENTRIES["experiment", "tailw0.8"], None) == "not run"


def test_a_missing_folder_ends_in_one_message(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "nowhere")]) == 1
    assert "There is no folder" in capsys.readouterr().err
