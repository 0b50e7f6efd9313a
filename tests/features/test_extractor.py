"""Feature extraction: each image once, bit-identical in any batch, and errors with the name of the image."""

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from helpers.trees import write_mvtec_tree
from moleflow.data.datamodule import FolderDataModule
from moleflow.data.dataset import image_loader
from moleflow.data.image_io import ImageError
from moleflow.data.transforms import FlippedTransform, ImageTransform, Transform
from moleflow.features.backbone import PatchBackbone
from moleflow.features.cache import DiskFeatureCache, NullFeatureCache
from moleflow.features.extractor import FeatureExtractor, feature_spec
from moleflow.utils.errors import UserError

TRANSFORM = ImageTransform(64)


@pytest.fixture(scope="module")
def cnn() -> PatchBackbone:
    return PatchBackbone("resnet18", ["layer1", "layer2"], 16, pretrained=False)


@pytest.fixture(scope="module")
def vit() -> PatchBackbone:
    return PatchBackbone("vit_tiny_patch16_224", [0, 1], 192, pretrained=False)


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    rng = np.random.default_rng(0)
    paths = [tmp_path / f"{i}.png" for i in range(5)]
    for path in paths:
        Image.fromarray(rng.integers(0, 256, (70, 80, 3), dtype=np.uint8)).save(path)
    return paths


@pytest.fixture
def data(tmp_path: Path) -> FolderDataModule:
    return FolderDataModule(write_mvtec_tree(tmp_path / "tree", ("nut", "bolt")), TRANSFORM, batch_size=5)


def disk_cache(folder: Path, network: PatchBackbone, dtype: torch.dtype = torch.float32) -> DiskFeatureCache:
    return DiskFeatureCache(folder, feature_spec(network, TRANSFORM), dtype)


def extract(extractor: FeatureExtractor, paths: list[Path], progress: str | None = None) -> None:
    """Extract with a loader of the extractor's own settings."""
    missing = extractor.missing(paths)
    extractor.extract(image_loader(missing, extractor.transform, batch_size=extractor.batch_size), progress)


@pytest.mark.parametrize("batch_size", [1, 4])
@pytest.mark.parametrize("kind", ["cnn", "vit"])
def test_features_do_not_depend_on_other_images(
    request: pytest.FixtureRequest, paths: list[Path], batch_size: int, kind: str
) -> None:
    network = request.getfixturevalue(kind)
    together = FeatureExtractor(network, TRANSFORM, batch_size=batch_size).features(paths)
    for i, path in enumerate(paths):
        alone = FeatureExtractor(network, TRANSFORM, batch_size=batch_size).features([path])
        assert torch.equal(alone[0], together[i])


def test_features_are_those_of_the_transformed_image(cnn: PatchBackbone, paths: list[Path]) -> None:
    features = FeatureExtractor(cnn, TRANSFORM).features(paths[:2])
    assert features.shape == (2, *cnn.grid(64, 64), 16)
    for path, feature in zip(paths[:2], features, strict=True):
        with Image.open(path) as image:
            torch.testing.assert_close(feature, cnn(TRANSFORM(image)[None])[0])


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("loader_batch_size", [1, 2, 5])
def test_extraction_through_a_data_module_equals_features_of_paths(
    cnn: PatchBackbone, data: FolderDataModule, num_workers: int, loader_batch_size: int
) -> None:
    data.num_workers = num_workers
    samples = data.samples("train", "nut") + data.samples("test", "bolt")
    expected = FeatureExtractor(cnn, TRANSFORM, batch_size=2).features([sample.path for sample in samples])
    extractor = FeatureExtractor(cnn, TRANSFORM, batch_size=2)
    extractor.extract(data.loader(extractor.missing(samples), transform=TRANSFORM, batch_size=loader_batch_size))
    assert (extractor.hits, extractor.misses) == (0, len(samples))
    assert torch.equal(extractor.features([sample.path for sample in samples]), expected)
    assert extractor.misses == len(samples)


def test_extraction_with_a_flipped_transform(cnn: PatchBackbone, data: FolderDataModule) -> None:
    samples = data.samples("train", "nut")
    flipped: Transform = FlippedTransform(TRANSFORM, "rotate_90")
    extractor = FeatureExtractor(cnn, flipped)
    extractor.extract(
        data.loader(extractor.missing(samples), transform=extractor.transform, batch_size=extractor.batch_size)
    )
    features = extractor.features([sample.path for sample in samples])
    with Image.open(samples[0].path) as image:
        torch.testing.assert_close(features[0], cnn(TRANSFORM(image.transpose(Image.Transpose.ROTATE_90))[None])[0])


def test_extraction_of_no_images(
    cnn: PatchBackbone, data: FolderDataModule, capsys: pytest.CaptureFixture[str]
) -> None:
    extractor = FeatureExtractor(cnn, TRANSFORM)
    assert extractor.missing([]) == []
    extractor.extract(data.loader([], transform=TRANSFORM, batch_size=1), "features")
    assert (extractor.hits, extractor.misses) == (0, 0)
    assert capsys.readouterr() == ("", "")


def test_loader_of_another_transform_raises(cnn: PatchBackbone, data: FolderDataModule) -> None:
    extractor = FeatureExtractor(cnn, ImageTransform(32))
    with pytest.raises(ValueError, match="transform of the loader differs"):
        extractor.extract(data.loader(data.samples("train", "nut")))
    assert extractor.misses == 0


def test_missing_images_are_those_without_cached_features(cnn: PatchBackbone, data: FolderDataModule) -> None:
    samples = data.samples("train", "nut")
    extractor = FeatureExtractor(cnn, TRANSFORM)
    extractor.features([sample.path for sample in samples[2:4]])
    assert extractor.missing(samples) == samples[:2] + samples[4:]
    assert extractor.hits == 2
    assert FeatureExtractor(cnn, TRANSFORM, NullFeatureCache()).missing(samples) == samples


def test_each_image_is_computed_once(cnn: PatchBackbone, paths: list[Path], tmp_path: Path) -> None:
    extractor = FeatureExtractor(cnn, TRANSFORM, disk_cache(tmp_path / "cache", cnn), batch_size=2)
    extract(extractor, paths[:3])
    assert (extractor.hits, extractor.misses) == (0, 3)
    first = extractor.features([*paths, paths[0]])
    assert (extractor.hits, extractor.misses) == (4, 5)
    later = FeatureExtractor(cnn, TRANSFORM, disk_cache(tmp_path / "cache", cnn), batch_size=2)
    assert torch.equal(later.features([*paths, paths[0]]), first)
    extract(later, paths)
    assert (later.hits, later.misses) == (11, 0)


def test_equal_files_are_computed_once(cnn: PatchBackbone, paths: list[Path], tmp_path: Path) -> None:
    copy = tmp_path / "copy.png"
    copy.write_bytes(paths[0].read_bytes())
    extractor = FeatureExtractor(cnn, TRANSFORM)
    extract(extractor, [paths[0], copy])
    assert (extractor.hits, extractor.misses) == (1, 1)


def test_float16_features_are_equal_when_computed_and_when_cached(
    cnn: PatchBackbone, paths: list[Path], tmp_path: Path
) -> None:
    cache = disk_cache(tmp_path / "cache", cnn, torch.float16)
    computed = FeatureExtractor(cnn, TRANSFORM, cache).features(paths)
    cached = FeatureExtractor(cnn, TRANSFORM, cache).features(paths)
    exact = FeatureExtractor(cnn, TRANSFORM).features(paths)
    assert computed.dtype == torch.float32
    assert torch.equal(computed, cached)
    assert torch.equal(computed, exact.half().float())


def test_workers_change_neither_features_nor_random_state(cnn: PatchBackbone, paths: list[Path]) -> None:
    state = torch.get_rng_state()
    with_workers = FeatureExtractor(cnn, TRANSFORM, batch_size=2, num_workers=2).features(paths)
    assert torch.equal(with_workers, FeatureExtractor(cnn, TRANSFORM, batch_size=2).features(paths))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_unreadable_image_raises_one_user_error(cnn: PatchBackbone, data: FolderDataModule, num_workers: int) -> None:
    samples = data.samples("train", "nut")
    path = samples[3].path
    path.write_bytes(path.read_bytes()[:200])
    data.num_workers = num_workers
    extractor = FeatureExtractor(cnn, TRANSFORM, num_workers=num_workers)
    for attempt in (
        lambda: extractor.extract(data.loader(extractor.missing(samples), batch_size=1)),
        lambda: extractor.features([sample.path for sample in samples]),
    ):
        with pytest.raises(ImageError) as caught:
            attempt()
        assert caught.value.path == path
        assert "Traceback" not in str(caught.value)
    assert extractor.misses == 3  # the images before it are cached


def test_damaged_entry_is_computed_again(
    cnn: PatchBackbone, paths: list[Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache = disk_cache(tmp_path / "cache", cnn)
    extractor = FeatureExtractor(cnn, TRANSFORM, cache)
    first = extractor.features(paths)
    entry = cache.path(cache.key(paths[2]))
    entry.write_bytes(entry.read_bytes()[:-1] + b"?")
    with caplog.at_level(logging.WARNING):
        assert torch.equal(extractor.features(paths), first)
    assert str(entry) in caplog.text
    assert (extractor.hits, extractor.misses) == (4, 6)
    assert torch.equal(FeatureExtractor(cnn, TRANSFORM, cache).features(paths), first)


def test_features_that_are_not_finite_raise(paths: list[Path]) -> None:
    network = PatchBackbone("resnet18", ["layer1"], 16, pretrained=False)
    network.body.model.conv1.weight[0, 0, 0, 0] = torch.nan
    with pytest.raises(UserError, match=f"features of {paths[0]} are not finite"):
        extract(FeatureExtractor(network, TRANSFORM), paths)


def test_feature_spec_contains_all_settings(cnn: PatchBackbone) -> None:
    spec = feature_spec(cnn, TRANSFORM)
    assert spec == {"backbone": cnn.spec(), "transform": TRANSFORM.spec(), "batch_size": 1, "device": "cpu"}
    assert feature_spec(cnn, ImageTransform(32)) != spec
    assert feature_spec(cnn, TRANSFORM, batch_size=2) != spec
    assert feature_spec(cnn, TRANSFORM, device="cuda:1") == feature_spec(cnn, TRANSFORM, device="cuda") != spec


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 0}, r"features\.batch_size=0 must be at least 1"),
        ({"num_workers": -1}, r"features\.num_workers=-1 must be at least 0"),
    ],
)
def test_invalid_argument_raises(cnn: PatchBackbone, arguments: dict[str, int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        FeatureExtractor(cnn, TRANSFORM, **arguments)  # type: ignore[arg-type]


def test_progress_bar_is_shown_on_request(
    cnn: PatchBackbone, paths: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    extractor = FeatureExtractor(cnn, TRANSFORM)
    extract(extractor, paths[:2])
    assert capsys.readouterr() == ("", "")
    extract(extractor, paths, progress="features of bottle")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "features of bottle" in captured.err
    assert "3/3" in captured.err
