"""Tests of the detector: routing and scoring of images, and its model folder."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from helpers.detectors import fit_detector, fit_expert, normal_images, small_settings, training_images
from helpers.trees import write_mvtec_tree
from moleflow.detector.base import Detector, mean_features
from moleflow.detector.calibration import Calibration
from moleflow.detector.detector import MoLEFlow
from moleflow.scoring.thresholds import UNKNOWN_RATE, pooled_thresholds, threshold_at_rate
from moleflow.utils.errors import UserError


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_mvtec_tree(tmp_path_factory.mktemp("tree"), ("bottle", "screw"), good=2, defect=2)


@pytest.fixture(scope="module")
def detector(tree: Path) -> MoLEFlow:
    """Return a detector that no test changes."""
    return fit_detector(tree)


def test_scored_images_are_in_order_with_the_values_of_the_router(detector: MoLEFlow, tree: Path) -> None:
    paths = [
        path for pair in zip(normal_images(tree, "screw"), normal_images(tree, "bottle"), strict=True) for path in pair
    ]
    scored = detector.score(paths)
    assert isinstance(detector, Detector)
    assert [image.path for image in scored] == paths
    assert [image.expert for image in scored] == ["screw", "bottle"] * 2
    routing = detector.router.route(mean_features(detector.extractor.features(paths)))
    assert [image.margin for image in scored] == routing.margins.tolist()
    assert [image.distance for image in scored] == routing.distances.amin(1).tolist()
    for path, image in zip(paths, scored, strict=True):
        (alone,) = detector.score([str(path)])
        assert alone.score == image.score
        assert torch.equal(alone.anomaly_map, image.anomaly_map)
        assert image.anomaly_map.shape == (64, 64)


def test_stream_in_small_chunks_equals_score(detector: MoLEFlow, tree: Path) -> None:
    paths = [*normal_images(tree, "bottle"), *normal_images(tree, "screw")]
    chunked = list(detector.stream(paths, chunk=3))
    assert [image.score for image in chunked] == [image.score for image in detector.score(paths)]


def test_expert_argument_replaces_the_routed_expert(detector: MoLEFlow, tree: Path) -> None:
    paths = normal_images(tree, "bottle")
    scored = detector.score(paths, expert="screw")
    distances = detector.router.distances(mean_features(detector.extractor.features(paths)))
    assert {image.expert for image in scored} == {"screw"}
    assert [image.distance for image in scored] == distances[:, 1].tolist()


@pytest.mark.parametrize("count", [0, 1])
def test_unknown_expert_is_an_error(count: int, detector: MoLEFlow, tree: Path) -> None:
    with pytest.raises(UserError, match=r"expert=scrw is unknown\. Did you mean 'screw'\? Experts: bottle, screw\."):
        next(detector.stream(normal_images(tree, "screw")[:count], expert="scrw"))


def test_detector_without_experts_cannot_score(tree: Path) -> None:
    with pytest.raises(UserError, match="has no expert"):
        MoLEFlow(small_settings()).score(normal_images(tree, "bottle"))


def test_expert_of_a_category(detector: MoLEFlow) -> None:
    assert detector.expert_of("screw") == "screw"
    with pytest.raises(UserError, match="No expert was trained on category='tile'"):
        detector.expert_of("tile")


def test_thresholds_are_computed_from_the_training_images(detector: MoLEFlow, tree: Path) -> None:
    paths = training_images(tree, "screw")
    scores = torch.tensor([image.score for image in detector.score(paths, expert="screw")])
    features = mean_features(detector.extractor.features(paths))
    distances = {
        name: detector.router.leave_one_out_distances(name, record.training.features).numpy()
        for name, record in detector.experts.items()
        if record.training is not None
    }
    torch.testing.assert_close(detector.router.leave_one_out_distances("screw", features).numpy(), distances["screw"])
    thresholds = detector.thresholds("screw", rate=0.3, unknown_rate=0.2)
    assert thresholds.score == threshold_at_rate(scores.numpy(), 0.3)
    assert thresholds.distance == pooled_thresholds(distances, 0.2)["screw"]
    maxima = [float(image.anomaly_map.max()) for image in detector.score(paths, expert="screw")]
    assert thresholds.pixel.value == pytest.approx(threshold_at_rate(np.array(maxima), 0.3).value)
    assert thresholds.normal_scores == sorted(scores.tolist())


def test_distance_thresholds_follow_the_experts_and_the_calibrations(tree: Path) -> None:
    detector = fit_detector(tree, "router=euclidean")  # distances of an expert do not depend on the others
    both = detector.thresholds("bottle").distance
    assert detector.thresholds("bottle").distance == both
    detector.calibrations = {"screw": Calibration((0.0,) * 4, (0.0,) * 4, (1.0, 1.0, 1.0, 9.0), ("bottle", "screw"))}
    assert detector.thresholds("bottle").distance != both
    detector.calibrations = {}
    assert detector.thresholds("bottle").distance == both
    detector.remove_expert("screw")
    training = detector.experts["bottle"].training
    assert training is not None
    alone = detector.router.leave_one_out_distances("bottle", training.features).numpy()
    assert detector.thresholds("bottle").distance == pooled_thresholds({"bottle": alone}, UNKNOWN_RATE)["bottle"]
    assert detector.thresholds("bottle").distance != both


def test_expert_without_training_scores_has_no_thresholds(tree: Path) -> None:
    detector = fit_detector(tree, categories=["bottle"])
    detector.experts["bottle"].training = None
    with pytest.raises(UserError, match="'bottle' has no training scores"):
        detector.thresholds("bottle")


def test_name_of_an_expert_is_unique(tree: Path) -> None:
    detector = fit_detector(tree, categories=["bottle"])
    record = detector.experts["bottle"]
    with pytest.raises(UserError, match="'bottle' exists already"):
        detector.add_expert("bottle", ["screw"])
    assert detector.experts == {"bottle": record}


def test_calibration_standardizes_the_training_scores(tree: Path) -> None:
    detector = fit_detector(tree, "scoring.standardize=true")
    for record in detector.experts.values():
        assert record.standardizer is not None
        assert record.training is not None
        assert float(record.training.scores.mean()) == pytest.approx(0, abs=1e-4)
        assert float(record.training.scores.std(correction=0)) == pytest.approx(1, abs=1e-4)


def test_standardization_requires_a_frozen_base() -> None:
    with pytest.raises(UserError, match=r"scoring\.standardize=true requires .* Set model\.base=frozen"):
        MoLEFlow(small_settings("model=moleflow", "model.base=trainable", "scoring.standardize=true"))


@pytest.mark.parametrize("name", ["transform", "features"])
def test_missing_settings_are_listed(name: str) -> None:
    settings = small_settings()
    del settings[name]
    with pytest.raises(UserError, match=f"settings lack {name}"):
        MoLEFlow(settings)


# -- files --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("overrides", [(), ("scoring.standardize=true",), ("model=patchcore", "model.size=50")])
def test_loaded_detector_equals_the_saved_one(overrides: tuple[str, ...], tree: Path, tmp_path: Path) -> None:
    saved = fit_detector(tree, *overrides, categories=["bottle"])
    screw: dict[str, Any] = {"transform": {"size": [64, 96]}, "scoring": {"aggregation": "max"}}
    fit_expert(saved, "screw", training_images(tree, "screw"), screw)
    saved.save(tmp_path / "model")
    loaded = MoLEFlow.load(tmp_path / "model")
    assert list(loaded.experts) == ["bottle", "screw"]
    for name, record in saved.experts.items():
        other = loaded.experts[name]
        assert (other.categories, other.overrides) == (record.categories, record.overrides)
        assert (other.postprocessor, other.standardizer) == (record.postprocessor, record.standardizer)
        assert other.training is not None
        assert record.training is not None
        assert torch.equal(other.training.features, record.training.features)
        assert torch.equal(other.training.scores, record.training.scores)
        assert loaded.thresholds(name) == saved.thresholds(name)
    paths = [*normal_images(tree, "bottle"), *normal_images(tree, "screw")]
    for image, other_image in zip(saved.score(paths), loaded.score(paths), strict=True):
        values, other_values = ((i.path, i.score, i.expert, i.margin, i.distance) for i in (image, other_image))
        assert other_values == values
        assert torch.equal(other_image.anomaly_map, image.anomaly_map)


def test_restoration_of_some_experts(detector: MoLEFlow, tmp_path: Path) -> None:
    detector.save(tmp_path)
    model = MoLEFlow(small_settings())
    model.restore(tmp_path, ["screw"])
    assert list(model.experts) == model.router.names == list(model.patch_model.names) == ["screw"]
    with pytest.raises(UserError, match=r"manifest\.json lists no expert named tile"):
        MoLEFlow(small_settings()).restore(tmp_path, ["screw", "tile"])


def test_other_backbone_weights_are_an_error(detector: MoLEFlow, tmp_path: Path) -> None:
    detector.save(tmp_path)
    with pytest.raises(UserError, match="other backbone weights"):
        MoLEFlow(small_settings("backbone.dim=8")).restore(tmp_path)


def test_folders_without_a_model_are_errors(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"{tmp_path / 'absent'} does not exist"):
        MoLEFlow.load(tmp_path / "absent")
    with pytest.raises(UserError, match=r"manifest\.json is missing"):
        MoLEFlow.load(tmp_path)


def test_parameter_counts(detector: MoLEFlow) -> None:
    counts = detector.parameter_counts()
    assert list(counts) == ["base", "experts", "backbone"]
    assert counts["experts"] == {name: detector.patch_model.num_values(name) for name in ("bottle", "screw")}
    assert counts["experts"]["bottle"] > 0
    assert counts["backbone"] == sum(p.numel() for p in detector.extractor.backbone.parameters())
