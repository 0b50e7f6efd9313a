"""Tests of the features of many images in batches."""

from pathlib import Path

import pytest
import torch

from helpers.trees import write_mvtec_tree
from moleflow.data.transforms import FlippedTransform, ImageTransform
from moleflow.features.backbone import PatchBackbone
from moleflow.features.cache import DiskFeatureCache
from moleflow.features.extractor import FeatureExtractor, feature_spec
from moleflow.features.stream import FeatureStream
from moleflow.models import batches


@pytest.fixture(scope="module")
def backbone() -> PatchBackbone:
    return PatchBackbone("test_resnet", ["layer1", "layer2"], 8, pretrained=False)


def test_batches_are_the_features_of_all_extractors_in_order(
    backbone: PatchBackbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = sorted((write_mvtec_tree(tmp_path / "tree", ["bottle"], train=5) / "bottle/train/good").iterdir())
    transform = ImageTransform(32)
    extractors = [
        FeatureExtractor(backbone, each, DiskFeatureCache(tmp_path / "cache", feature_spec(backbone, each)))
        for each in (transform, FlippedTransform(transform, "flip_left_right"))
    ]
    stream = FeatureStream([(extractor, paths) for extractor in extractors], "cpu")
    expected = torch.cat([extractor.features(paths) for extractor in extractors])
    assert len(stream) == 10
    assert stream.fits_into_memory
    monkeypatch.setattr(batches, "MAX_CHUNK_BYTES", expected.nbytes - 1)
    assert not stream.fits_into_memory
    cached, computed = stream.batches(4), [extractor.misses for extractor in extractors]
    for _ in range(2):  # read from the files again
        assert [len(batch) for batch in cached] == [4, 4, 2]
        assert torch.equal(torch.cat(list(cached)), expected)
    assert torch.equal(torch.cat(list(stream.batches(2, 5))), expected[:5])
    assert torch.equal(stream.load(), expected)
    assert torch.equal(torch.cat(list(stream.batches(3, 7))), expected[:7])
    assert [extractor.misses for extractor in extractors] == computed
