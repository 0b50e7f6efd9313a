"""Tests of the classification of images as normal, defective or of an unknown category."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from helpers.detectors import SmallRun, normal_images, training_images
from moleflow.detector.detector import MoLEFlow
from moleflow.detector.predictor import Prediction, Predictor
from moleflow.detector.types import ScoredImage
from moleflow.scoring.thresholds import Thresholds
from moleflow.utils.errors import UserError


def test_images_of_trained_categories_are_known_and_others_unknown(small_run: SmallRun) -> None:
    model = MoLEFlow.load(small_run.folder)
    normal = [*training_images(small_run.tree, "bottle"), *normal_images(small_run.tree, "screw")]
    known = model.predict(normal)
    assert [prediction.expert for prediction in known] == ["bottle"] * 12 + ["screw"] * 6
    assert sum(prediction.verdict == "unknown" for prediction in known) <= 2
    other = model.predict(normal_images(small_run.tree, "tile"))
    assert [prediction.verdict for prediction in other] == ["unknown"] * 6
    assert all(prediction.distance is not None and prediction.distance > 1 for prediction in other)
    (with_expert,) = model.predict([other[0].path], expert="screw")
    assert with_expert.verdict in ("normal", "defect")
    assert with_expert.expert == "screw"


def test_score_threshold_is_computed_from_the_training_scores(small_run: SmallRun) -> None:
    model = MoLEFlow.load(small_run.folder)
    scored = model.score(training_images(small_run.tree, "screw"), expert="screw")
    scores = torch.tensor([image.score for image in scored], dtype=torch.float64)
    assert model.thresholds("screw").score == pytest.approx(float(scores.mean() + 3 * scores.std()), rel=1e-6)
    path = normal_images(small_run.tree, "screw")[0]
    for deviations in (0.5, 20.0):
        (prediction,) = Predictor(model, deviations).stream([path], "screw")
        assert prediction.threshold == pytest.approx(float(scores.mean() + deviations * scores.std()), rel=1e-6)
    assert prediction.verdict == "normal"


@pytest.mark.parametrize("deviations", [0.0, -1.0, math.inf, math.nan])
def test_invalid_deviations_are_errors(deviations: float, small_run: SmallRun) -> None:
    with pytest.raises(UserError, match=f"deviations={deviations} must be"):
        Predictor(MoLEFlow.load(small_run.folder), deviations)


def test_expert_without_training_scores_is_an_error(small_run: SmallRun) -> None:
    model = MoLEFlow.load(small_run.folder)
    model.experts["screw"].training = None
    with pytest.raises(UserError, match="'screw' has no training scores"):
        model.predict(normal_images(small_run.tree, "bottle"))


def test_unreadable_image_becomes_a_prediction_with_its_error(small_run: SmallRun, tmp_path: Path) -> None:
    good = normal_images(small_run.tree, "bottle")[0]
    torn, missing = tmp_path / "torn.png", tmp_path / "missing.png"
    torn.write_bytes(good.read_bytes()[:100])
    model = MoLEFlow.load(small_run.folder)
    predictions = model.predict([good, torn, str(missing), good])
    assert [prediction.path for prediction in predictions] == [good, torn, missing, good]
    assert [prediction.verdict == "error" for prediction in predictions] == [False, True, True, False]
    assert predictions[1].error.startswith(f"{torn} cannot be read as an image")
    assert str(missing) in predictions[2].error
    assert "data set" not in predictions[1].error
    assert (predictions[1].score, predictions[1].expert, predictions[1].anomaly_map) == (None, None, None)
    assert predictions[0].score == predictions[3].score == model.score([good])[0].score


@pytest.mark.parametrize("count", [0, 1])
def test_unknown_expert_is_an_error(count: int, small_run: SmallRun) -> None:
    predictor = Predictor(MoLEFlow.load(small_run.folder))
    with pytest.raises(UserError, match="Did you mean 'screw'"):
        next(predictor.stream(normal_images(small_run.tree, "screw")[:count], "scrw"))


class StubDetector:
    """A detector that scores every image as its file name and is at the distance of its folder's name."""

    def __init__(self) -> None:
        self.experts: dict[str, Any] = {"bottle": None}
        self.chunks: list[int] = []

    def score(self, paths: Sequence[Path | str], expert: str | None = None) -> list[ScoredImage]:
        self.chunks.append(len(paths))
        if any(Path(path).stem == "broken" for path in paths):
            raise UserError("broken cannot be read.")
        return [
            ScoredImage(Path(p), float(Path(p).name), torch.zeros(2, 2), "bottle", math.inf, float(Path(p).parent.name))
            for p in paths
        ]

    def thresholds(self, name: str, deviations: float = 3.0) -> Thresholds:
        return Thresholds(mean_score=0.0, score=deviations, distance=4.0)


def test_verdict_follows_from_the_thresholds() -> None:
    predictor = Predictor(StubDetector())
    paths = ["1/2", "1/3", "1/3.5", "4/9", "5/1", "5/9"]
    verdicts = [prediction.verdict for prediction in predictor.stream(paths)]
    assert verdicts == ["normal", "normal", "defect", "defect", "unknown", "unknown"]
    verdicts = [prediction.verdict for prediction in predictor.stream(paths, "bottle")]
    assert verdicts == ["normal", "normal", "defect", "defect", "normal", "defect"]
    assert [prediction.distance for prediction in predictor.stream(paths[-1:])] == [1.25]


def test_images_are_scored_in_chunks_and_one_by_one_after_an_error() -> None:
    detector = StubDetector()
    predictor = Predictor(detector)
    predictions = list(predictor.stream(["1/1", "1/1", "1/broken", "1/1", "1/1"], chunk=2))
    assert [prediction.verdict for prediction in predictions] == ["normal", "normal", "error", "normal", "normal"]
    assert predictions[2].error == "broken cannot be read."
    assert detector.chunks == [2, 2, 1, 1, 1]


def test_row_is_ready_for_json() -> None:
    (prediction,) = Predictor(StubDetector()).stream(["1/2"])
    assert prediction.row() == {
        "path": "1/2",
        "verdict": "normal",
        "score": 2.0,
        "threshold": 3.0,
        "category": "bottle",
        "margin": None,
        "distance": 0.25,
        "error": "",
    }
    assert Prediction(Path("a"), "error", error="x").row()["score"] is None
