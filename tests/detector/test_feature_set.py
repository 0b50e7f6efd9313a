"""Tests of feature sets: extractors, patch scores, and the names of settings in messages."""

from pathlib import Path
from typing import Any

import pytest
import torch

from helpers.detectors import small_settings
from moleflow.data.transforms import FlippedTransform
from moleflow.detector.feature_set import FIRST, FeatureSet
from moleflow.features.cache import DiskFeatureCache, FeatureCache, MemoryFeatureCache, NullFeatureCache
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
