"""Tests of the reader of run folders."""

from pathlib import Path

import pytest

from helpers.runs import write_faulty, write_run
from moleflow.runs.reader import Fault, Run, load_config, load_run, read_run, read_runs, values_by_seed
from moleflow.utils.errors import UserError


def test_finished_runs_are_read_with_the_path_below_the_root(tmp_path: Path) -> None:
    folder = write_run(tmp_path, "main/lr/seed3", {"optimizer.lr": 1e-4}, 0.4, seed=3)
    runs, faults = read_runs([tmp_path, tmp_path])  # a folder is read once
    assert faults == []
    (run,) = runs
    assert (run.folder, run.run_id, run.seed) == (folder.resolve(), "main/lr/seed3", 3)
    assert run.label == "main: optimizer.lr=0.0001"
    assert run.value("per_category", "bottle", "pixel_ap") == pytest.approx(0.3)
    assert load_run(folder).metrics == run.metrics


def test_folders_without_results_are_faults(tmp_path: Path) -> None:
    write_faulty(tmp_path)
    runs, faults = read_runs([tmp_path])
    assert runs == []
    assert {fault.folder.name: fault.kind for fault in faults} == {
        "crashed": "failed", "stopped": "unfinished", "resumed": "unfinished", "cut": "damaged", "gone": "damaged",
        "no_config": "damaged", "bad_yaml": "damaged", "binary": "damaged", "foreign": "unrecognized",
    }  # fmt: skip
    for fault in faults:
        with pytest.raises(UserError, match=rf"{fault.folder.name} is not a finished run \({fault.kind}\): "):
            load_run(fault.folder)


def test_a_missing_folder_is_a_user_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not a finished run"):
        load_run(tmp_path / "nothing")
    with pytest.raises(UserError, match="is not a folder"):
        read_runs([tmp_path / "nothing"])
    assert isinstance(read_run(tmp_path / "nothing"), Fault)


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "config.yaml is missing"), ("a: [1, {", "config.yaml is not YAML"), ("[1]", "it has no keys")],
)
def test_unreadable_configurations_are_user_errors(content: str | None, message: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "config.yaml").write_text(content)
    with pytest.raises(UserError, match=message):
        load_config(tmp_path)


def test_configurations_are_read_without_results(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("seed: 3")
    assert load_config(tmp_path) == {"seed": 3}


def test_values_of_repeated_seeds_are_those_of_the_first_run() -> None:
    metrics = [(0, None), (0, 0.2), (0, 0.3), (1, 0.4)]
    runs = [Run(Path(), "", {"seed": seed}, {"pixel_ap": value}) for seed, value in metrics]
    assert values_by_seed(runs, "pixel_ap") == {0: 0.2, 1: 0.4}
