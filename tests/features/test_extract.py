"""The extractor: each picture once, the same to the last bit in any company, and faults by name."""

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from moleflow.data.transforms import PictureTransform
from moleflow.errors import UserError
from moleflow.features import FeatureCache, FeatureExtractor, PatchBackbone, feature_spec

TRANSFORM = PictureTransform(64)


@pytest.fixture(scope="module")
def network() -> PatchBackbone:
    return PatchBackbone("resnet18", ["layer1", "layer2"], 16, pretrained=False)


@pytest.fixture(scope="module")
def tokens() -> PatchBackbone:
    return PatchBackbone("vit_tiny_patch16_224", [0, 1], 192, pretrained=False)


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    random = np.random.default_rng(0)
    made = []
    for i in range(5):
        made.append(tmp_path / f"{i}.png")
        Image.fromarray(random.integers(0, 256, (70, 80, 3), dtype=np.uint8)).save(made[-1])
    return made


def cache_at(folder: Path, network: PatchBackbone, dtype: torch.dtype = torch.float32) -> FeatureCache:
    return FeatureCache(folder, feature_spec(network, TRANSFORM), dtype)


@pytest.mark.parametrize("batch_size", [1, 4])
@pytest.mark.parametrize("kind", ["network", "tokens"])
def test_alone_and_in_company_bit_for_bit(
    request: pytest.FixtureRequest, paths: list[Path], batch_size: int, kind: str
) -> None:
    network = request.getfixturevalue(kind)
    together = FeatureExtractor(network, TRANSFORM, batch_size=batch_size).features(paths)
    for i, path in enumerate(paths):
        alone = FeatureExtractor(network, TRANSFORM, batch_size=batch_size).features([path])
        assert torch.equal(alone[0], together[i])


def test_features_are_the_backbones_of_the_transformed_picture(network: PatchBackbone, paths: list[Path]) -> None:
    features = FeatureExtractor(network, TRANSFORM).features(paths[:2])
    assert features.shape == (2, *network.grid(64, 64), 16)
    for path, feature in zip(paths[:2], features, strict=True):
        with Image.open(path) as picture:
            torch.testing.assert_close(feature, network(TRANSFORM(picture)[None])[0])


def test_each_picture_once(network: PatchBackbone, paths: list[Path], tmp_path: Path) -> None:
    extractor = FeatureExtractor(network, TRANSFORM, cache_at(tmp_path / "cache", network), batch_size=2)
    extractor.extract(paths[:3])
    assert (extractor.hits, extractor.misses) == (0, 3)
    first = extractor.features([*paths, paths[0]])
    assert (extractor.hits, extractor.misses) == (4, 5)
    later = FeatureExtractor(network, TRANSFORM, cache_at(tmp_path / "cache", network), batch_size=2)
    assert torch.equal(later.features([*paths, paths[0]]), first)
    later.extract(paths)
    assert (later.hits, later.misses) == (11, 0)


def test_the_same_content_twice_is_computed_once(network: PatchBackbone, paths: list[Path], tmp_path: Path) -> None:
    copy = tmp_path / "copy.png"
    copy.write_bytes(paths[0].read_bytes())
    extractor = FeatureExtractor(network, TRANSFORM)
    extractor.extract([paths[0], copy])
    assert (extractor.hits, extractor.misses) == (1, 1)


def test_half_precision_is_the_same_fresh_and_cached(network: PatchBackbone, paths: list[Path], tmp_path: Path) -> None:
    cache = cache_at(tmp_path / "cache", network, torch.float16)
    fresh = FeatureExtractor(network, TRANSFORM, cache).features(paths)
    again = FeatureExtractor(network, TRANSFORM, cache).features(paths)
    exact = FeatureExtractor(network, TRANSFORM).features(paths)
    assert fresh.dtype == torch.float32
    assert torch.equal(fresh, again)
    assert torch.equal(fresh, exact.half().float())


def test_workers_change_nothing_but_the_wait(network: PatchBackbone, paths: list[Path]) -> None:
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    with_workers = FeatureExtractor(network, TRANSFORM, batch_size=2, num_workers=2).features(paths)
    assert torch.equal(torch.rand(1), expected)  # the global random state is untouched
    assert torch.equal(with_workers, FeatureExtractor(network, TRANSFORM, batch_size=2).features(paths))


@pytest.mark.parametrize("num_workers", [0, 1])
def test_unreadable_picture_is_one_message(network: PatchBackbone, paths: list[Path], num_workers: int) -> None:
    paths[3].write_bytes(paths[3].read_bytes()[:200])
    with pytest.raises(UserError) as error:
        FeatureExtractor(network, TRANSFORM, num_workers=num_workers).extract(paths)
    assert str(paths[3]) in str(error.value)
    assert "Traceback" not in str(error.value)


def test_damaged_entry_is_computed_anew(
    network: PatchBackbone, paths: list[Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache = cache_at(tmp_path / "cache", network)
    extractor = FeatureExtractor(network, TRANSFORM, cache)
    first = extractor.features(paths)
    entry = cache.path(cache.key(paths[2]))
    entry.write_bytes(entry.read_bytes()[:-1] + b"?")
    with caplog.at_level(logging.WARNING):
        assert torch.equal(extractor.features(paths), first)
    assert str(entry) in caplog.text
    assert (extractor.hits, extractor.misses) == (4, 6)
    assert torch.equal(FeatureExtractor(network, TRANSFORM, cache).features(paths), first)


def test_features_that_are_not_finite(paths: list[Path]) -> None:
    network = PatchBackbone("resnet18", ["layer1"], 16, pretrained=False)
    network.body.model.conv1.weight[0, 0, 0, 0] = torch.nan
    with pytest.raises(UserError, match=f"features of {paths[0]} are not finite"):
        FeatureExtractor(network, TRANSFORM).extract(paths)


def test_spec_of_features_names_all_parts(network: PatchBackbone) -> None:
    spec = feature_spec(network, TRANSFORM)
    assert spec["backbone"] == network.spec()
    assert spec["transform"] == TRANSFORM.spec()
    assert feature_spec(network, PictureTransform(32)) != spec
    assert feature_spec(network, TRANSFORM, batch_size=2) != spec
    assert feature_spec(network, TRANSFORM, device="cuda:1") == feature_spec(network, TRANSFORM, device="cuda") != spec


def test_progress_only_when_asked_for(
    network: PatchBackbone, paths: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    extractor = FeatureExtractor(network, TRANSFORM)
    extractor.extract(paths[:2])
    assert capsys.readouterr() == ("", "")
    extractor.extract(paths, progress="features of bottle")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "features of bottle" in captured.err
    assert "3/3" in captured.err
