"""Tests of the construction of extractors and postprocessors with the overrides of experts."""

from pathlib import Path
from typing import Any

import pytest
import torch

from helpers.detectors import small_settings
from moleflow.data.transforms import FlippedTransform
from moleflow.detector.components import ComponentFactory, resolve_device
from moleflow.features.cache import DiskFeatureCache, FeatureCache, MemoryFeatureCache, NullFeatureCache
from moleflow.utils.errors import UserError

CPU = torch.device("cpu")


def build(cache: Any = None, *overrides: str) -> ComponentFactory:
    return ComponentFactory(small_settings(*overrides), cache, 0, CPU)


def test_extractors_of_equal_size_and_augmentation_are_shared() -> None:
    components = build()
    extractor = components.extractor({})
    assert components.extractor({"epochs": 3, "transform": {"size": [64, 64]}}) is extractor
    large = components.extractor({"transform": {"size": 96}})
    flipped = components.extractor({}, "rotate_180")
    assert large is not extractor
    assert flipped is not extractor
    assert components.extractor({}, "rotate_180") is flipped
    assert isinstance(flipped.transform, FlippedTransform)
    assert large.backbone is flipped.backbone is extractor.backbone


@pytest.mark.parametrize(
    ("cache", "expected"), [(None, NullFeatureCache), ("memory", MemoryFeatureCache), (Path("x"), DiskFeatureCache)]
)
def test_cache_of_the_features(cache: Any, expected: type[FeatureCache], tmp_path: Path) -> None:
    components = build(tmp_path / cache if isinstance(cache, Path) else cache, "features.dtype=float16")
    caches = [components.extractor({}, augmentation).cache for augmentation in (None, "rotate_90")]
    assert [type(each) for each in caches] == [expected] * 2
    assert caches[0] is not caches[1]
    assert caches[0].dtype == torch.float16


def test_postprocessor_has_the_overrides() -> None:
    components = build()
    assert components.postprocessor({}).aggregation == "top_k"
    assert components.postprocessor({"scoring": {"aggregation": "max", "pool": 3}}).pool == 3
    assert components.postprocessor({"scoring": {"top_k": 90}, "transform": {"size": 96}}).top_k == 90
    with pytest.raises(UserError, match=r"^scoring\.top_k=90 is more than the 64 patches"):
        components.postprocessor({"scoring": {"top_k": 90}})


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"scoring": {"top_k": 90}}, r"^per_category\.screw\.scoring\.top_k=90 is more"),
        ({"model": {"adapter": "wite"}}, r"^per_category\.screw\.model\.adapter=wite is unknown"),
        ({"transform": {"size": 0}}, r"^per_category\.screw\.transform\.size=0 must"),
    ],
)
def test_check_names_the_key_of_the_overrides(overrides: dict[str, Any], message: str) -> None:
    build().check({"epochs": 3}, "per_category.screw")
    with pytest.raises(UserError, match=message):
        build().check(overrides, "per_category.screw")


def test_type_of_the_features_is_checked() -> None:
    with pytest.raises(UserError, match=r"features\.dtype=float8 is unknown"):
        build(None, "features.dtype=float8")


def test_device_is_checked() -> None:
    assert resolve_device("cpu") == CPU
    for device in ("cuda:99", "gpu"):
        with pytest.raises(UserError, match=f"device={device} cannot be used: .* Use device=cpu"):
            resolve_device(device)
