"""Tests of the ensemble detector: means of its members, and its file in a run folder."""

import shutil
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from helpers.detectors import fit_detector, normal_images, training_images
from helpers.trees import write_mvtec_tree
from moleflow.data.samples import Sample
from moleflow.detector.base import Detector
from moleflow.detector.detector import MoLEFlow
from moleflow.detector.folders import ENSEMBLE_FILE
from moleflow.detector.predictor import Predictor
from moleflow.inference.ensemble import EnsembleDetector, load_detector
from moleflow.scoring.calibration import ScoreStandardizer
from moleflow.utils.errors import UserError


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_mvtec_tree(tmp_path_factory.mktemp("tree"), ("bottle", "screw"), good=2, defect=2)


@pytest.fixture(scope="module")
def runs(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Return run folders of a Gaussian, and of a memory bank at another image size whose scores are standardized."""
    folder = tmp_path_factory.mktemp("runs")
    members = [
        fit_detector(tree),
        fit_detector(tree, "model=patchcore", "transform.size=96", "scoring.standardize=true", "scoring.map_size=80"),
    ]
    for i, member in enumerate(members):
        member.save(folder / f"run{i}" / "model")
    return [folder / f"run{i}" for i in range(len(members))]


def training_samples(tree: Path, category: str) -> list[Sample]:
    return [Sample(path, category, "train", "good", None) for path in training_images(tree, category)]


def calibrated(runs: list[Path], tree: Path) -> EnsembleDetector:
    ensemble = EnsembleDetector.from_runs(runs)
    ensemble.calibrate_members([partial(training_samples, tree)] * len(runs), lambda category: [])
    return ensemble


def test_scores_and_maps_are_means_over_members(runs: list[Path], tree: Path) -> None:
    ensemble = calibrated(runs, tree)
    assert isinstance(ensemble, Detector)
    assert not isinstance(ensemble, MoLEFlow)
    paths = [*normal_images(tree, "bottle"), *normal_images(tree, "screw")]
    scored = ensemble.score(paths)
    routes = [image.expert for image in MoLEFlow.load(runs[0]).score(paths)]
    assert [image.expert for image in scored] == routes == ["bottle"] * 2 + ["screw"] * 2
    for path, image, expert in zip(paths, scored, routes, strict=True):
        scores, maps = [], []
        for run in runs:
            member = MoLEFlow.load(run)
            record = member.experts[expert]
            if record.standardizer is None:
                patches = member.scorer.score_images(training_images(tree, expert), expert, groups=torch.arange(8))
                record.standardizer = ScoreStandardizer.from_training(patches, record.postprocessor)
            (alone,) = member.score([path], expert)
            scores.append(alone.score)
            maps.append(alone.anomaly_map)
        assert maps[1].shape == (80, 80)
        maps[1] = F.interpolate(maps[1][None, None], (64, 64), mode="bilinear", antialias=True)[0, 0]
        assert image.score == pytest.approx(sum(scores) / 2, rel=1e-5, abs=1e-6)
        torch.testing.assert_close(image.anomaly_map, sum(maps) / 2)


def test_training_scores_of_the_ensemble_are_those_of_new_images(runs: list[Path], tree: Path) -> None:
    ensemble = calibrated(runs, tree)
    for name, record in ensemble.experts.items():
        paths = training_images(tree, name)
        patches = ensemble.scorer.score_images(paths, name, groups=torch.arange(len(paths)))
        assert record.training is not None
        assert torch.equal(record.training.scores, ensemble.scorer.image_scores(patches, [name] * len(paths)))
        assert ensemble.thresholds(name).normal_scores == sorted(record.training.scores.tolist())
        member_scores = ensemble.members[0].experts[name].training
        assert member_scores is not None
        assert not torch.equal(member_scores.scores, record.training.scores), "members keep their own"


def test_parameter_counts_are_sums_over_members(runs: list[Path]) -> None:
    ensemble = EnsembleDetector.from_runs(runs)
    first, second = (member.parameter_counts() for member in ensemble.members)
    counts = ensemble.parameter_counts()
    assert counts["backbone"] == first["backbone"] + second["backbone"]
    assert counts["experts"] == {name: first["experts"][name] + second["experts"][name] for name in first["experts"]}


def test_file_round_trip(runs: list[Path], tree: Path, tmp_path: Path) -> None:
    runs = [Path(shutil.copytree(run, tmp_path / "runs" / run.name)) for run in runs]
    ensemble = calibrated(runs, tree)
    out = tmp_path / "runs" / "ensemble"
    ensemble.write(out / ENSEMBLE_FILE)
    paths = [*normal_images(tree, "bottle"), *normal_images(tree, "screw")]
    expected = [image.score for image in ensemble.score(paths)]
    moved = Path(shutil.move(tmp_path / "runs", tmp_path / "moved"))
    loaded = load_detector(moved / "ensemble")
    assert isinstance(loaded, EnsembleDetector)
    assert [image.score for image in loaded.score(paths)] == expected
    assert [prediction.score for prediction in Predictor(loaded).stream(paths)] == expected
    for name in ensemble.experts:
        assert loaded.thresholds(name) == ensemble.thresholds(name)
    manifest = moved / "run1" / "model" / "manifest.json"
    manifest.write_bytes(manifest.read_bytes() + b" ")
    with pytest.raises(UserError, match="run1 is missing or has changed since"):
        load_detector(moved / "ensemble")


def test_run_folder_with_a_model_is_loaded_as_such(runs: list[Path]) -> None:
    assert isinstance(load_detector(runs[0]), MoLEFlow)


def test_fewer_than_two_different_runs_are_an_error(runs: list[Path]) -> None:
    with pytest.raises(UserError, match="at least two"):
        EnsembleDetector.from_runs(runs[:1])
    with pytest.raises(UserError, match="given twice"):
        EnsembleDetector.from_runs([runs[0], runs[1] / ".." / runs[0].name])


def test_members_of_other_categories_or_image_regions_are_errors(runs: list[Path], tree: Path) -> None:
    first = MoLEFlow.load(runs[0])
    folders = [Path("first"), Path("other")]
    with pytest.raises(UserError, match=r"other cannot join first: the categories of its experts are \[\['bottle'\]\]"):
        EnsembleDetector([first, fit_detector(tree, categories=["bottle"])], folders)
    with pytest.raises(UserError, match=r"its region of an image is crop to 1\.000:1 instead of the whole image"):
        EnsembleDetector([first, fit_detector(tree, "view=paper")], folders)
    square, long = (fit_detector(tree, "view=paper", f"transform.size={size}") for size in (64, "[64,96]"))
    with pytest.raises(UserError, match=r"crop to 1\.500:1 instead of crop to 1\.000:1"):
        EnsembleDetector([square, long], folders)
    EnsembleDetector([first, fit_detector(tree, "transform.mode=squash", "transform.size=[64,96]")], folders)
