"""The cache: keys, round trips, damage, full disks and concurrent writers."""

import errno
import logging
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from moleflow.errors import UserError
from moleflow.features import FeatureCache, MemoryStore

SPEC = {"backbone": {"name": "a", "layers": ["x", "y"]}, "transform": {"size": [4, 4]}}


def grid() -> torch.Tensor:
    return torch.randn(3, 4, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "picture.png"
    path.write_bytes(b"pixels")
    return path


def test_key_is_a_function_of_content_and_spec(picture: Path, tmp_path: Path) -> None:
    key = FeatureCache(tmp_path, SPEC).key(picture)
    copy = tmp_path / "copy.jpg"
    copy.write_bytes(b"pixels")
    reordered = {"transform": {"size": [4, 4]}, "backbone": {"layers": ["x", "y"], "name": "a"}}
    assert len(key) == 64
    assert FeatureCache(tmp_path / "elsewhere", reordered).key(copy) == key
    other = {"backbone": {"name": "a", "layers": ["y", "x"]}, "transform": {"size": [4, 4]}}
    copy.write_bytes(b"pixelz")
    keys = {
        key,
        FeatureCache(tmp_path, other).key(picture),
        FeatureCache(tmp_path, SPEC, torch.float16).key(picture),
        FeatureCache(tmp_path, SPEC).key(copy),
    }
    assert len(keys) == 4


def test_key_follows_a_changed_file(picture: Path, tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path, SPEC)
    before = cache.key(picture)
    assert cache.key(picture) == before
    picture.write_bytes(b"other pixels")
    assert cache.key(picture) != before


def test_key_of_a_missing_picture(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"gone.png cannot be read"):
        FeatureCache(tmp_path, SPEC).key(tmp_path / "gone.png")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_round_trip_to_the_last_bit(tmp_path: Path, dtype: torch.dtype) -> None:
    cache = FeatureCache(tmp_path, SPEC, dtype)
    assert cache.load("ab12") is None
    assert "ab12" not in cache
    cache.store("ab12", grid())
    assert "ab12" in cache
    loaded = FeatureCache(tmp_path, SPEC, dtype).load("ab12")
    assert loaded is not None
    assert loaded.dtype == dtype
    assert torch.equal(loaded, grid().to(dtype))
    assert [p.relative_to(tmp_path) for p in tmp_path.rglob("*") if p.is_file()] == [Path("ab/ab12.safetensors")]


def test_a_view_is_stored_as_its_own_values(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path, SPEC)
    cache.store("ab12", grid().transpose(0, 1))
    loaded = cache.load("ab12")
    assert loaded is not None
    assert torch.equal(loaded, grid().transpose(0, 1))


@pytest.mark.parametrize("damage", ["bit", "truncated", "empty", "no checksum", "other tensor"])
def test_damage_is_reported_and_counts_as_absent(tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture) -> None:
    from safetensors.torch import save_file

    cache = FeatureCache(tmp_path, SPEC)
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
def test_full_disk_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, call, full)
    cache = FeatureCache(tmp_path, SPEC)
    with pytest.raises(UserError, match=f"cache {tmp_path}: No space left on device. Free some space"):
        cache.store("ab12", grid())
    assert cache.load("ab12") is None
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []


def test_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(UserError, match="cannot be written to the cache"):
        FeatureCache(tmp_path / "cache", SPEC).store("ab12", grid())


def test_concurrent_writers_of_one_entry(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path, SPEC)

    def write_and_read(_: int) -> bool:
        cache.store("ab12", grid())
        loaded = cache.load("ab12")
        return loaded is not None and torch.equal(loaded, grid())

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(write_and_read, range(40)))
    assert [p.name for p in tmp_path.rglob("*") if p.is_file()] == ["ab12.safetensors"]


def test_memory_store_keeps_a_copy(picture: Path) -> None:
    store = MemoryStore(torch.float16)
    tensor = grid()
    key = store.key(picture)
    store.store(key, tensor)
    tensor.zero_()
    loaded = store.load(key)
    assert loaded is not None
    assert torch.equal(loaded, grid().half())
    assert store.load("other") is None


def test_only_the_two_types(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"float32 or float16, not torch.int8"):
        FeatureCache(tmp_path, SPEC, torch.int8)
