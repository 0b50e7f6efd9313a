"""Feature caches: keys, round trips, damaged files, full disks and concurrent writers."""

import errno
import logging
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from helpers.trees import write_mvtec_tree
from moleflow.data.datamodule import FolderDataModule
from moleflow.data.fingerprint import data_fingerprint
from moleflow.data.transforms import ImageTransform
from moleflow.features.cache import DiskFeatureCache, MemoryFeatureCache, NullFeatureCache
from moleflow.utils.errors import UserError
from moleflow.utils.io import sha256

SPEC = {"backbone": {"name": "a", "layers": ["x", "y"]}, "transform": {"size": [4, 4]}}


def grid() -> torch.Tensor:
    return torch.randn(3, 4, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "image.png"
    path.write_bytes(b"pixels")
    return path


def test_key_depends_on_content_and_spec_alone(image: Path, tmp_path: Path) -> None:
    key = DiskFeatureCache(tmp_path, SPEC).key(image)
    copy = tmp_path / "copy.jpg"
    copy.write_bytes(b"pixels")
    reordered = {"transform": {"size": [4, 4]}, "backbone": {"layers": ["x", "y"], "name": "a"}}
    assert len(key) == 64
    assert DiskFeatureCache(tmp_path / "elsewhere", reordered).key(copy) == key
    other = {"backbone": {"name": "a", "layers": ["y", "x"]}, "transform": {"size": [4, 4]}}
    copy.write_bytes(b"pixelz")
    keys = {
        key,
        DiskFeatureCache(tmp_path, other).key(image),
        DiskFeatureCache(tmp_path, SPEC, torch.float16).key(image),
        DiskFeatureCache(tmp_path, SPEC).key(copy),
    }
    assert len(keys) == 4


def test_key_of_a_known_image(image: Path, tmp_path: Path) -> None:
    """A change of the key format would make all cached features invalid."""
    key = "1a0edb15e59a8a16a24ac2f4810095a35410a4bd5e6809734cad1b658d7a2470"
    assert DiskFeatureCache(tmp_path, SPEC).key(image) == key


def test_key_changes_with_the_file(image: Path, tmp_path: Path) -> None:
    cache = DiskFeatureCache(tmp_path, SPEC)
    before = cache.key(image)
    assert cache.key(image) == before
    image.write_bytes(b"other pixels")
    assert cache.key(image) != before


def test_file_is_hashed_once_for_all_caches_and_the_record_of_the_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write_mvtec_tree(tmp_path / "tree", ("bottle",), size=(16, 16), train=2, good=1, defect=1)
    hashed: list[Path] = []

    def counted(path: Path) -> str:
        hashed.append(path)
        return sha256(path)

    monkeypatch.setattr("moleflow.utils.io.sha256", counted)
    data = FolderDataModule(root, ImageTransform(8))
    caches = [DiskFeatureCache(tmp_path, SPEC), NullFeatureCache(), MemoryFeatureCache(torch.float16)]
    data_fingerprint(data)
    keys = {cache.key(sample.path) for cache in caches for sample in data.samples("train", "bottle")}
    data_fingerprint(data)
    assert len(keys) == 6
    assert sorted(hashed) == sorted(root.rglob("*.png"))


def test_key_of_a_missing_image_raises(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"gone.png cannot be read"):
        DiskFeatureCache(tmp_path, SPEC).key(tmp_path / "gone.png")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_round_trip_is_exact(tmp_path: Path, dtype: torch.dtype) -> None:
    cache = DiskFeatureCache(tmp_path, SPEC, dtype)
    assert cache.load("ab12") is None
    assert "ab12" not in cache
    cache.store("ab12", grid())
    assert "ab12" in cache
    loaded = DiskFeatureCache(tmp_path, SPEC, dtype).load("ab12")
    assert loaded is not None
    assert loaded.dtype == dtype
    assert torch.equal(loaded, grid().to(dtype))
    assert [p.relative_to(tmp_path) for p in tmp_path.rglob("*") if p.is_file()] == [Path("ab/ab12.safetensors")]


def test_view_is_stored_as_contiguous_values(tmp_path: Path) -> None:
    cache = DiskFeatureCache(tmp_path, SPEC)
    cache.store("ab12", grid().transpose(0, 1))
    loaded = cache.load("ab12")
    assert loaded is not None
    assert torch.equal(loaded, grid().transpose(0, 1))


@pytest.mark.parametrize("damage", ["bit", "truncated", "empty", "no checksum", "other tensor"])
def test_damaged_entry_is_missing_with_a_warning(tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture) -> None:
    from safetensors.torch import save_file

    cache = DiskFeatureCache(tmp_path, SPEC)
    cache.store("ab12", grid())
    path = cache.path("ab12")
    content = bytearray(path.read_bytes())
    if damage == "bit":
        content[-5] ^= 1
        path.write_bytes(content)
    elif damage == "truncated":
        path.write_bytes(content[:-40])
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "no checksum":
        save_file({"features": grid()}, path)
    else:
        save_file({"else": grid()}, path)
    with caplog.at_level(logging.WARNING):
        assert cache.load("ab12") is None
    assert str(path) in caplog.text
    cache.store("ab12", grid())
    loaded = cache.load("ab12")
    assert loaded is not None
    assert torch.equal(loaded, grid())


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_full_disk_raises_and_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    def raise_no_space(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, call, raise_no_space)
    cache = DiskFeatureCache(tmp_path, SPEC)
    with pytest.raises(
        UserError, match=f"cache {tmp_path}: No space left on device. Free some space there, or set features.cache_dir"
    ):
        cache.store("ab12", grid())
    assert cache.load("ab12") is None
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []


def test_folder_that_cannot_be_created_raises(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(UserError, match="cannot be written to the cache"):
        DiskFeatureCache(tmp_path / "cache", SPEC).store("ab12", grid())


def test_concurrent_writers_of_one_entry(tmp_path: Path) -> None:
    cache = DiskFeatureCache(tmp_path, SPEC)

    def write_and_read(_: int) -> bool:
        cache.store("ab12", grid())
        loaded = cache.load("ab12")
        return loaded is not None and torch.equal(loaded, grid())

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(write_and_read, range(40)))
    assert [p.name for p in tmp_path.rglob("*") if p.is_file()] == ["ab12.safetensors"]


def test_memory_cache_stores_a_copy(image: Path) -> None:
    cache = MemoryFeatureCache(torch.float16)
    tensor = grid()
    key = cache.key(image)
    cache.store(key, tensor)
    tensor.zero_()
    loaded = cache.load(key)
    assert loaded is not None
    assert torch.equal(loaded, grid().half())
    assert cache.load("other") is None


def test_null_cache_has_no_entries(image: Path) -> None:
    cache = NullFeatureCache()
    key = cache.key(image)
    cache.store(key, grid())
    assert key not in cache
    assert cache.load(key) is None


def test_other_storage_type_raises(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"features.dtype=int8 must be float32 or float16"):
        DiskFeatureCache(tmp_path, SPEC, torch.int8)
