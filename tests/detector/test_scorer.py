"""Tests of patch scores, image scores and anomaly maps of single experts."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from helpers.detectors import fit_detector, fit_expert, normal_images, small_settings, training_images
from helpers.trees import write_mvtec_tree
from moleflow.detector import feature_set
from moleflow.detector.detector import MoLEFlow
from moleflow.detector.feature_set import FIRST
from moleflow.features.extractor import FeatureExtractor
from moleflow.models.flow.expert_flow import ExpertFlow
from moleflow.utils.errors import UserError


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_mvtec_tree(tmp_path_factory.mktemp("tree"), ("bottle", "screw"), good=5)


@pytest.fixture(scope="module")
def detector(tree: Path) -> MoLEFlow:
    """Return a detector whose expert screw has another image size and another aggregation than bottle."""
    detector = fit_detector(tree, "features.batch_size=4", "scoring.standardize=true", categories=["bottle"])
    overrides = {"transform": {"size": [64, 96]}, "scoring": {"aggregation": "max"}}
    fit_expert(detector, "screw", training_images(tree, "screw"), overrides)
    return detector


@pytest.mark.parametrize("name", ["bottle", "screw"])
def test_patch_scores_do_not_depend_on_the_batch(name: str, detector: MoLEFlow, tree: Path) -> None:
    paths = normal_images(tree, "screw")
    together = detector.scorer.score_images(paths, name)
    assert together.shape == (5, *detector.experts[name].grid_shape)
    for path, patches in zip(paths, together, strict=True):
        assert torch.equal(detector.scorer.score_images([path], name)[0], patches)


def test_no_images_have_no_scores(detector: MoLEFlow) -> None:
    assert detector.feature_sets[FIRST].patch_scores(torch.empty(0, 8, 8, 16), "bottle", []).shape == (0, 8, 8)


def test_features_at_hand_are_not_extracted_again(
    detector: MoLEFlow, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Features at the model's image size are of use only to experts of that size."""
    paths = normal_images(tree, "bottle")
    features = detector.extractor.features(paths)
    expected = {name: detector.scorer.score_images(paths, name) for name in ("bottle", "screw")}
    extracted: list[FeatureExtractor] = []
    extract = FeatureExtractor.features

    def recorded(self: FeatureExtractor, paths: list[Path]) -> Tensor:
        extracted.append(self)
        return extract(self, paths)

    monkeypatch.setattr(FeatureExtractor, "features", recorded)
    for name, scores in expected.items():
        assert torch.equal(detector.scorer.score_images(paths, name, features), scores)
    assert extracted == [detector.experts["screw"].extractor]


def test_experts_of_different_sizes_are_scored_together(detector: MoLEFlow, tree: Path) -> None:
    names = ["screw", "bottle", "screw"]
    paths = normal_images(tree, "screw")[:3]
    patches = [detector.scorer.score_images([path], name)[0] for path, name in zip(paths, names, strict=True)]
    scores = detector.scorer.image_scores(patches, names)
    maps = detector.scorer.anomaly_maps(patches, names)
    assert maps.shape == (3, *detector.scorer.map_shape)
    for i, name in enumerate(names):
        record = detector.experts[name]
        assert record.standardizer is not None
        expected = record.standardizer.images(record.postprocessor.image_scores(patches[i][None]))[0]
        assert scores[i] == expected
        assert torch.equal(maps[i], record.postprocessor.anomaly_maps(patches[i][None])[0])


def test_training_images_are_scored_without_their_own_patches(tree: Path) -> None:
    detector = fit_detector(tree, "model=patchcore", categories=["bottle"])
    paths = training_images(tree, "bottle")
    as_new = detector.scorer.score_images(paths, "bottle", groups=torch.arange(len(paths)))
    as_known = detector.scorer.score_images(paths, "bottle")
    assert float(as_known.max()) < 0.1 * float(as_new.min())


def test_training_images_are_scored_without_the_patches_of_their_group(tree: Path, tmp_path: Path) -> None:
    """Two copies of each image: alone, a copy is found in the memory bank; left out as a group, it is not."""
    paths = [path for path in training_images(tree, "bottle")[:3] for _ in range(2)]
    groups = torch.arange(3).repeat_interleave(2)
    detector = MoLEFlow(small_settings("model=patchcore"))
    fit_expert(detector, "bottle", paths, groups=groups)
    alone = MoLEFlow(small_settings("model=patchcore"))
    fit_expert(alone, "bottle", paths)
    once = MoLEFlow(small_settings("model=patchcore"))
    fit_expert(once, "bottle", paths[::2])
    training, expected = (each.experts["bottle"].training for each in (detector, once))
    copies = alone.experts["bottle"].training
    assert training is not None
    assert expected is not None
    assert copies is not None
    torch.testing.assert_close(training.scores[::2], expected.scores)
    assert float(copies.scores.max()) < 0.1 * float(expected.scores.min())
    assert detector.thresholds("bottle").normal_scores[::2] == pytest.approx(once.thresholds("bottle").normal_scores)
    detector.save(tmp_path)
    loaded = MoLEFlow.load(tmp_path)
    assert loaded.thresholds("bottle") == detector.thresholds("bottle")
    assert loaded.thresholds("bottle").distance != alone.thresholds("bottle").distance


def test_scores_that_are_not_finite_are_an_error(detector: MoLEFlow) -> None:
    features = torch.zeros(3, 8, 8, 16)
    features[1, 0, 0] = torch.nan
    with pytest.raises(
        UserError, match=r"expert 'bottle' are not finite for b\.png\. It is fitted in closed form, and"
    ):
        detector.feature_sets[FIRST].patch_scores(features, "bottle", [Path("a.png"), Path("b.png"), Path("c.png")])


def test_advice_for_a_model_with_gradient_steps_is_the_learning_rate(tree: Path) -> None:
    features = torch.full((1, 8, 8, 16), torch.nan)
    (scored,) = fit_detector(tree, "model=whitened", categories=["bottle"]).feature_sets.values()
    with pytest.raises(UserError, match=r"Its training diverged: lower optimizer\.lr"):
        scored.patch_scores(features, "bottle", [Path("a")])


def test_merged_experts_are_cached_up_to_a_limit(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    detector = fit_detector(tree)
    merged: list[str] = []
    merge = ExpertFlow.merged

    def recorded(self: ExpertFlow, name: str) -> ExpertFlow:
        merged.append(name)
        return merge(self, name)

    def score(*names: str) -> list[str]:
        merged.clear()
        for name in names:
            detector.scorer.score_images(normal_images(tree, "bottle")[:1], name)
        return list(merged)

    monkeypatch.setattr(ExpertFlow, "merged", recorded)
    detector.scorer.clear_merged_cache()
    assert score("bottle", "screw", "bottle", "screw") == ["bottle", "screw"]
    detector.scorer.clear_merged_cache()
    assert score("screw", "screw") == ["screw"]
    monkeypatch.setattr(feature_set, "_MAX_MERGED", 1)
    assert score("bottle", "bottle", "screw", "bottle") == ["bottle", "screw", "bottle"]
