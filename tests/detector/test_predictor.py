"""Tests of the classification of images as normal, defective or of an unknown category."""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from helpers.detectors import SmallRun, normal_images, training_images
from moleflow.detector.detector import MoLEFlow
from moleflow.detector.predictor import Prediction, Predictor
from moleflow.detector.types import ScoredImage
from moleflow.scoring.thresholds import Threshold, Thresholds, threshold_at_rate
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
    path = normal_images(small_run.tree, "screw")[0]
    for rate in (0.01, 0.3):
        (prediction,) = Predictor(model, rate).stream([path], "screw")
        assert prediction.threshold == pytest.approx(threshold_at_rate(scores.numpy(), rate).value, rel=1e-6)


@pytest.mark.parametrize("rate", [0.0, -1.0, 1.0, math.nan])
def test_rates_that_are_not_allowed(rate: float, small_run: SmallRun) -> None:
    model = MoLEFlow.load(small_run.folder)
    for rates in ({"rate": rate}, {"unknown_rate": rate}):
        with pytest.raises(UserError, match=f"rate={rate} must"):
            Predictor(model, **rates)


def test_images_in_memory_have_the_predictions_of_their_files(small_run: SmallRun) -> None:
    model = MoLEFlow.load(small_run.folder)
    paths = normal_images(small_run.tree, "screw")[:3]
    expected = model.predict(paths)
    arrays = [np.asarray(Image.open(path)) for path in paths]
    for images in (
        arrays,
        iter(arrays),
        [Image.open(path) for path in paths],
        [torch.from_numpy(array.copy()).permute(2, 0, 1) for array in arrays],
        [str(paths[0]), arrays[1], Image.open(paths[2])],
        np.stack(arrays),
        small_run.tree / "screw" / "test" / "good",
    ):
        predictions = model.predict(images)[:3]
        assert [prediction.score for prediction in predictions] == [prediction.score for prediction in expected]
        for prediction, other in zip(predictions, expected, strict=True):
            assert torch.equal(prediction.anomaly_map, other.anomaly_map)
    (single,) = model.predict(arrays[0])
    assert (single.path, single.score) == (None, expected[0].score)
    (failed,) = model.predict([np.zeros((4, 4, 2))])
    assert failed.verdict == "error"
    assert "shape=[4, 4, 2]" in failed.error


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

    def score(self, paths: Sequence[Any], expert: str | None = None) -> list[ScoredImage]:
        self.chunks.append(len(paths))
        if any(Path(path).stem == "broken" for path in paths):
            raise UserError("broken cannot be read.")
        return [
            ScoredImage(Path(p), float(Path(p).name), torch.zeros(2, 2), "bottle", math.inf, float(Path(p).parent.name))
            for p in paths
        ]

    def thresholds(self, name: str, rate: float = 0.01, unknown_rate: float = 0.001) -> Thresholds:
        return Thresholds(Threshold(3.0, 1.0), Threshold(3.0, 1.0), Threshold(4.0, 1.0), (0.0, 1.0, 2.0))


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
        "normalized_score": pytest.approx(1 / (1 + math.e)),
        "category": "bottle",
        "margin": None,
        "distance": 0.25,
        "error": "",
    }
    assert Prediction(Path("a"), "error", error="x").row()["score"] is None


def test_expert_without_a_threshold_never_calls_an_image_normal() -> None:
    detector = StubDetector()
    thresholds = detector.thresholds("bottle")
    detector.thresholds = lambda *args: replace(thresholds, score=Threshold(None, 1.0))  # type: ignore[method-assign]
    predictor = Predictor(detector)
    predictions = list(predictor.stream(["1/0", "1/9", "5/9"]))
    assert [prediction.verdict for prediction in predictions] == ["no threshold", "no threshold", "unknown"]
    assert [prediction.normalized_score for prediction in predictions] == [None] * 3
    assert predictor.comparisons() == {}
