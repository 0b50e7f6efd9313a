"""Tests of feature sets: extractors, patch scores, and the names of settings in messages."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from helpers.composing import once
from helpers.detectors import fit_detector, fit_expert, normal_images, small_settings, training_images
from helpers.program import LARGE_SET
from helpers.trees import write_mvtec_tree
from moleflow.data.transforms import FlippedTransform
from moleflow.detector.base import mean_features
from moleflow.detector.components import ComponentFactory
from moleflow.detector.detector import MoLEFlow
from moleflow.detector.feature_set import FIRST, FeatureSet, check_feature_set_name
from moleflow.detector.overrides import overridable_keys
from moleflow.features.cache import DiskFeatureCache, FeatureCache, MemoryFeatureCache, NullFeatureCache
from moleflow.inference.merge_experts import merge_experts
from moleflow.utils.errors import UserError

CPU = torch.device("cpu")


def build(cache: Any = None, *overrides: str) -> FeatureSet:
    settings = small_settings(*overrides)
    return FeatureSet(FIRST, settings, settings["features"], cache, 0, CPU)


def test_extractors_of_equal_size_and_augmentation_are_shared() -> None:
    feature_set = build()
    extractor = feature_set.extractor({})
    assert feature_set.extractor({"epochs": 3, "transform": {"size": [64, 64]}}) is extractor
    large = feature_set.extractor({"transform": {"size": 96}})
    flipped = feature_set.extractor({}, "rotate_180")
    assert large is not extractor
    assert flipped is not extractor
    assert feature_set.extractor({}, "rotate_180") is flipped
    assert isinstance(flipped.transform, FlippedTransform)
    assert large.backbone is flipped.backbone is extractor.backbone


@pytest.mark.parametrize(
    ("cache", "expected"), [(None, NullFeatureCache), ("memory", MemoryFeatureCache), (Path("x"), DiskFeatureCache)]
)
def test_cache_of_the_features(cache: Any, expected: type[FeatureCache], tmp_path: Path) -> None:
    feature_set = build(tmp_path / cache if isinstance(cache, Path) else cache, "features.dtype=float16")
    caches = [feature_set.extractor({}, augmentation).cache for augmentation in (None, "rotate_90")]
    assert [type(each) for each in caches] == [expected] * 2
    assert caches[0] is not caches[1]
    assert caches[0].dtype == torch.float16


def test_type_of_the_features_is_checked() -> None:
    with pytest.raises(UserError, match=r"features\.dtype=float8 is unknown"):
        build(None, "features.dtype=float8")


# -- several feature sets of a detector -------------------------------------------------------------------------------

SMALL_FIRST = ("transform.size=32", "scoring.map_size=64", *LARGE_SET)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_mvtec_tree(tmp_path_factory.mktemp("tree"), ("bottle", "screw"), train=4, good=2)


@pytest.fixture(scope="module")
def detector(tree: Path) -> MoLEFlow:
    """Return a detector of a Gaussian on a 4 x 4 grid and a memory bank of weight 3 on an 8 x 8 grid."""
    detector = fit_detector(tree, *SMALL_FIRST, "+feature_sets.large.weight=3", categories=["bottle"])
    overrides = {"feature_sets": {"large": {"transform": {"size": [64, 96]}}}}
    fit_expert(detector, "screw", training_images(tree, "screw"), overrides)
    return detector


def test_patch_scores_are_the_weighted_mean_over_the_feature_sets(detector: MoLEFlow, tree: Path) -> None:
    training, paths = training_images(tree, "bottle"), normal_images(tree, "bottle")
    record = detector.experts["bottle"]
    assert record.fusion is not None
    expected = torch.zeros(len(paths), 8, 8, dtype=torch.float64)
    for name, share in ((FIRST, 0.25), ("large", 0.75)):
        model, extractor = detector.feature_sets[name].patch_model, record.extractors[name]
        ids = torch.arange(len(training))
        own = model.patch_scores(extractor.features(training), "bottle", ids).double()
        mean, deviation = float(own.mean()), float(own.std(correction=0))
        assert tuple(record.fusion.moments[name]) == pytest.approx((mean, deviation), rel=1e-5)
        scores = model.patch_scores(extractor.features(paths), "bottle").double()
        standardized = (scores - mean) / deviation
        resampled = F.interpolate(standardized[:, None], (8, 8), mode="bilinear", align_corners=False)[:, 0]
        expected += share * resampled
    patches = detector.scorer.score_images(paths, "bottle")
    torch.testing.assert_close(patches, expected.float(), rtol=1e-4, atol=1e-4)
    for path, alone in zip(paths, patches, strict=True):
        assert torch.equal(detector.scorer.score_images([path], "bottle")[0], alone)
    assert (
        detector.scorer.score_images(paths, "screw").shape == (2, *detector.experts["screw"].grid_shape) == (2, 8, 12)
    )


def test_memory_bank_of_a_further_feature_set_excludes_the_own_image(detector: MoLEFlow, tree: Path) -> None:
    paths = training_images(tree, "bottle")
    features = detector.experts["bottle"].extractors["large"].features(paths)
    feature_set = detector.feature_sets["large"]
    as_new = feature_set.patch_scores(features, "bottle", paths, torch.arange(len(paths)))
    assert float(feature_set.patch_scores(features, "bottle", paths).mean()) < 0.9 * float(as_new.mean())


def test_further_feature_set_does_not_change_the_first(detector: MoLEFlow, tree: Path) -> None:
    alone = fit_detector(tree, *SMALL_FIRST[:2], categories=["bottle"])
    state = alone.expert_state("bottle")
    assert not [key for key in state if key.startswith(("feature_sets", "fusion"))]
    both = detector.expert_state("bottle")
    for key, value in state.items():
        if key not in ("training.scores", "training.maxima"):
            assert torch.equal(both[key], value)
    assert alone.experts["bottle"].fusion is None


def test_loaded_detector_has_equal_scores(detector: MoLEFlow, tree: Path, tmp_path: Path) -> None:
    detector.save(tmp_path)
    loaded = MoLEFlow.load(tmp_path)
    loaded.save(tmp_path / "again")
    assert (tmp_path / "again/manifest.json").read_bytes() == (tmp_path / "manifest.json").read_bytes()
    paths = [*normal_images(tree, "bottle"), *normal_images(tree, "screw")]
    for image, other in zip(detector.score(paths), loaded.score(paths), strict=True):
        assert (image.score, image.expert, image.distance) == (other.score, other.expert, other.distance)
        assert torch.equal(image.anomaly_map, other.anomaly_map)
    assert loaded.thresholds("screw") == detector.thresholds("screw")
    assert loaded.parameter_counts() == detector.parameter_counts()
    merge_experts([(tmp_path, ["screw"]), (tmp_path / "again", ["bottle"])], tmp_path / "merged")
    merged = MoLEFlow.load(tmp_path / "merged")
    assert [image.score for image in merged.score(paths)] == [image.score for image in loaded.score(paths)]


def test_parameter_counts_are_sums_over_the_feature_sets(detector: MoLEFlow) -> None:
    counts = detector.parameter_counts()
    first, large = (detector.feature_sets[name].patch_model for name in (FIRST, "large"))
    assert large.num_values("bottle") == 40 * 8
    assert counts["experts"]["bottle"] == first.num_values("bottle") + 40 * 8
    backbones = [each.backbone for each in detector.feature_sets.values()]
    assert counts["backbone"] == sum(p.numel() for backbone in backbones for p in backbone.parameters())


def test_other_weights_of_a_further_backbone_are_an_error(detector: MoLEFlow, tmp_path: Path) -> None:
    detector.save(tmp_path)
    settings = small_settings(*SMALL_FIRST, "+feature_sets.large.backbone.seed=1")
    with pytest.raises(UserError, match="other backbone weights"):
        MoLEFlow(settings).restore(tmp_path)


def test_images_are_routed_by_the_chosen_feature_set(tree: Path) -> None:
    detector = fit_detector(tree, *SMALL_FIRST, "router.features=large")
    assert detector.extractor is detector.feature_sets["large"].extractor({})
    paths = normal_images(tree, "screw")
    features = mean_features(detector.extractor.features(paths))
    assert features.shape == (2, 8)
    scored = detector.score(paths)
    assert [image.distance for image in scored] == detector.router.distances(features)[:, 1].tolist()
    assert [image.expert for image in scored] == ["screw", "screw"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["+feature_sets.a={model: {}}"], r"^feature_sets\.a must have a backbone and a model\. Compose"),
        (["feature_sets=null"], r"^feature_sets=None must map names"),
        ([*LARGE_SET, "+feature_sets.large.size=3"], r"^feature_sets\.large\.size is unknown\. Allowed: backbone, "),
        ([*LARGE_SET, "+feature_sets.large.weight=0"], r"^feature_sets\.large\.weight=0 must be greater than 0"),
        ([*LARGE_SET, "+feature_sets.large.weight=a"], r"^feature_sets\.large\.weight=a must be a number"),
        ([*LARGE_SET, "feature_sets.large.model.size=0"], r"^feature_sets\.large\.model\.size=0 must be at least 1"),
        ([*LARGE_SET, "+feature_sets.large.model.sizes=0"], r"^feature_sets\.large\.model\.sizes is unknown"),
        ([*LARGE_SET, "feature_sets.large.backbone.dim=0"], r"^feature_sets\.large\.backbone\.dim=0 must be"),
        ([*LARGE_SET, "feature_sets.large.transform.size=0"], r"^feature_sets\.large\.transform\.size=0 must be"),
        (
            [*LARGE_SET, "transform.mode=crop", "feature_sets.large.transform.size=[64,96]"],
            r"^feature_sets\.large\.transform uses another region of an image \(crop to 1\.500:1\)",
        ),
        (
            [*LARGE_SET[:5], "+model@feature_sets.large.model=moleflow"],
            r"^feature_sets\.large\.model must be fitted in",
        ),
        ([*LARGE_SET, "router.features=larg"], r"^router\.features=larg is unknown\. Did you mean 'large'"),
        (["router.features=large"], r"^router\.features=large is unknown"),
    ],
)
def test_wrong_settings_are_errors_that_name_the_key(overrides: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        MoLEFlow(small_settings(*overrides))


@pytest.mark.parametrize("name", ["first", "a.b", "1a", "a-b", ""])
def test_names_of_feature_sets(name: str) -> None:
    check_feature_set_name("dino_2")
    with pytest.raises(UserError, match=r"is not a possible name"):
        check_feature_set_name(name)


def test_standardized_feature_sets_need_experts_that_do_not_change() -> None:
    with pytest.raises(UserError, match=r"feature_sets requires .* Set model\.base=frozen"):
        MoLEFlow(small_settings("model=moleflow", "model.base=trainable", *LARGE_SET))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"transform": {"size": 0}}, r"^per_category\.screw\.feature_sets\.large\.transform\.size=0 must"),
        ({"transform": {"size": [64, 96]}}, r"another region"),
    ],
)
def test_check_of_overrides_of_a_further_feature_set(overrides: dict[str, Any], message: str) -> None:
    components = ComponentFactory(small_settings(*LARGE_SET, "transform.mode=crop"), None, 0, CPU)
    components.check({"feature_sets": {"large": {"transform": {"size": 96}}}}, "per_category.screw")
    with pytest.raises(UserError, match=message):
        components.check({"feature_sets": {"large": overrides}}, "per_category.screw")


def test_overridable_keys_of_further_feature_sets() -> None:
    settings = once("dataset=folder", "dataset.root=unused", *LARGE_SET[:5], "+model@feature_sets.large.model=gaussian")
    keys = overridable_keys(settings)
    assert {"feature_sets.large.transform.size", "feature_sets.large.model.adapter_rank"} <= set(keys)
    assert "feature_sets.large.transform.mode" not in keys


@pytest.mark.parametrize("model", ["padim", "gaussian"])
def test_cross_validated_scores_are_those_of_experts_without_the_fold(model: str, tree: Path) -> None:
    detector = MoLEFlow(small_settings(f"model={model}"))
    (feature_set,) = detector.feature_sets.values()
    paths = training_images(tree, "bottle")
    groups = torch.arange(len(paths)) // 2
    features = detector.extractor.features(paths)
    scores = feature_set.cross_validated_scores(torch.split(features, 1), groups, paths, {})
    assert feature_set.patch_model.names == ()
    for fold in range(int(groups.max()) + 1):
        alone = MoLEFlow(small_settings(f"model={model}"))
        alone.add_expert("bottle", ["bottle"])
        alone.feature_sets[FIRST].fit("bottle", [features[groups != fold]], groups[groups != fold])
        expected = alone.feature_sets[FIRST].patch_scores(features[groups == fold], "bottle", paths)
        torch.testing.assert_close(scores[groups == fold], expected)
