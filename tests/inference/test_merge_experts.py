"""Tests of model folders that are merged from the experts of several runs."""

import shutil
from pathlib import Path

import pytest

from helpers.detectors import SmallRun, normal_images, train_small_run
from moleflow.cli.command import main
from moleflow.detector.detector import MoLEFlow
from moleflow.inference.merge_experts import merge_experts
from moleflow.utils.errors import UserError


@pytest.fixture(scope="module")
def second_run(small_run: SmallRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run with the base of the small run, trained on bottle and tile."""
    folder = tmp_path_factory.mktemp("second") / "run"
    train_small_run(small_run.tree, folder, "dataset.categories=[bottle,tile]")
    return folder


def test_merged_experts_reproduce_the_scores_of_their_runs(
    small_run: SmallRun, second_run: Path, tmp_path: Path
) -> None:
    assert not (second_run / "pictures").exists()  # callbacks=minimal
    out = tmp_path / "merged"
    names = merge_experts([(small_run.folder, ["bottle", "screw"]), (second_run, ["tile"])], out)
    merged = MoLEFlow.load(out)
    assert names == list(merged.experts) == list(merged.patch_model.names) == ["bottle", "screw", "tile"]
    for run, category in ((small_run.folder, "screw"), (second_run, "tile")):
        paths = normal_images(small_run.tree, category)
        expected = MoLEFlow.load(run).score(paths, expert=category)
        routed = merged.score(paths)
        assert [image.expert for image in routed] == [category] * len(paths)
        assert [image.score for image in routed] == [image.score for image in expected]


def test_all_experts_that_no_earlier_run_has_by_default(small_run: SmallRun, second_run: Path, tmp_path: Path) -> None:
    sources: list[tuple[Path, list[str]]] = [(small_run.folder / "model", []), (second_run, [])]
    assert merge_experts(sources, tmp_path / "merged") == ["bottle", "screw", "tile"]
    with pytest.raises(UserError, match="has a model already"):
        merge_experts(sources, tmp_path / "merged")


def test_command(small_run: SmallRun, second_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "merged")
    assert main(["merge-experts", out, f"{small_run.folder}=screw", f"{second_run}=bottle,tile"]) == 0
    assert "bottle, screw, tile" in capsys.readouterr().out
    assert main(["merge-experts", out, str(small_run.folder)]) == 1
    assert "has a model already" in capsys.readouterr().err


def test_calibrations_that_are_not_copied_are_named(
    small_run: SmallRun, second_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    calibrated = shutil.copytree(small_run.folder, tmp_path / "calibrated")
    assert main(["calibrate", str(calibrated), str(small_run.tree)]) == 0
    capsys.readouterr()
    out = tmp_path / "merged"
    assert main(["merge-experts", str(out), str(calibrated), str(second_run)]) == 0
    assert f"The calibrations of {calibrated} are not copied: calibrate {out} again." in capsys.readouterr().out
    assert MoLEFlow.load(out).calibrations == {}


def test_incompatible_runs_and_names_are_errors(small_run: SmallRun, second_run: Path, tmp_path: Path) -> None:
    out, run = tmp_path / "out", small_run.folder
    other_base = tmp_path / "other_base"
    train_small_run(small_run.tree, other_base, "dataset.categories=[tile,screw]", "epochs=1")
    other_settings = tmp_path / "other_settings"
    train_small_run(
        small_run.tree, other_settings, "dataset.categories=[bottle]", "epochs=1", "seed=1", "model.clamp=2"
    )
    for sources, message in (
        ([(run, ["screw"]), (other_base, ["tile"])], "the bases differ"),
        ([(run, ["screw"]), (second_run, ["screw"])], "has no expert 'screw'"),
        ([(run, ["bottle"]), (second_run, ["bottle"])], "Give it once"),
        (
            [(run, []), (other_settings, [])],
            r"differ in model\.clamp: 2 instead of 1\.9, model\.seed: 1 instead of 0\.",
        ),
        ([(run, []), (tmp_path / "nowhere", [])], "nowhere does not exist"),
    ):
        with pytest.raises(UserError, match=message):
            merge_experts(sources, out)
    assert not out.exists()
