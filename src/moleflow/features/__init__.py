"""Frozen networks that turn pictures into patch grids, once."""

from moleflow.features.backbone import PatchBackbone
from moleflow.features.cache import FeatureCache, FeatureStore, MemoryStore, NoStore
from moleflow.features.extract import FeatureExtractor, Transform, feature_spec
from moleflow.features.pooling import PatchPooling
from moleflow.features.position import position_code
from moleflow.features.weights import build_model

__all__ = [
    "FeatureCache",
    "FeatureExtractor",
    "FeatureStore",
    "MemoryStore",
    "NoStore",
    "PatchBackbone",
    "PatchPooling",
    "Transform",
    "build_model",
    "feature_spec",
    "position_code",
]
