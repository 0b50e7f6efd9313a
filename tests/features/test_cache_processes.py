"""The disk cache in several processes: concurrent writers, a killed writer, and a full disk."""

import os
import signal
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch

from fault_injection.scenarios import small_disk
from moleflow.features.cache import DiskFeatureCache
from moleflow.utils.errors import UserError

KEYS = [f"{i % 3:02x}{i:04x}" for i in range(60)]


def entry(key: str) -> torch.Tensor:
    return torch.full((4, 4, 16), float(int(key, 16)))


def fork(function: Callable[[], None]) -> int:
    """Call a function in a child process and return the process id; the exit status is 0 if nothing was raised."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of the threads of torch
        pid = os.fork()
    if not pid:
        status = 1
        try:
            function()
            status = 0
        finally:
            os._exit(status)
    return pid


def status_of(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.rglob("*") if path.is_file()}


def test_two_processes_write_the_same_entries(tmp_path: Path) -> None:
    begin, open_gate = os.pipe()

    def write(keys: list[str]) -> None:
        os.close(open_gate)
        os.read(begin, 1)  # returns in both processes when the parent closes its end
        cache = DiskFeatureCache(tmp_path, {})
        for key in keys:
            cache.store(key, entry(key))
            loaded = cache.load(key)
            assert loaded is not None
            assert torch.equal(loaded, entry(key))

    writers = [fork(partial(write, keys)) for keys in (KEYS, KEYS[::-1])]
    os.close(begin)
    os.close(open_gate)
    assert [status_of(writer) for writer in writers] == [0, 0]
    assert files(tmp_path) == {f"{key}.safetensors" for key in KEYS}
    cache = DiskFeatureCache(tmp_path, {})
    for key in KEYS:
        loaded = cache.load(key)
        assert loaded is not None
        assert torch.equal(loaded, entry(key))


def test_killed_writer_leaves_no_entry_and_its_temporary_file_is_removed(tmp_path: Path) -> None:
    key, other = KEYS[0], KEYS[3]
    assert other[:2] == key[:2]

    def write_half_and_die() -> None:
        def write_half(path: Path, content: bytes) -> None:
            with path.open("wb") as file:
                file.write(content[: len(content) // 2])
            os.kill(os.getpid(), signal.SIGKILL)

        Path.write_bytes = write_half  # type: ignore[method-assign,assignment]
        DiskFeatureCache(tmp_path, {}).store(key, entry(key))

    assert status_of(fork(write_half_and_die)) == -signal.SIGKILL
    (temporary,) = tmp_path.rglob("*.tmp")
    assert temporary.stat().st_size > 0
    cache = DiskFeatureCache(tmp_path, {})
    assert key not in cache
    assert cache.load(key) is None
    cache.store(key, entry(key))  # leaves new temporary files, which may belong to a running process
    assert files(tmp_path) == {f"{key}.safetensors", temporary.name}
    loaded = cache.load(key)
    assert loaded is not None
    assert torch.equal(loaded, entry(key))

    hours_ago = time.time() - 2 * 3600
    os.utime(temporary, (hours_ago, hours_ago))
    DiskFeatureCache(tmp_path, {}).store(other, entry(other))
    assert files(tmp_path) == {f"{key}.safetensors", f"{other}.safetensors"}


def test_full_disk_leaves_only_complete_entries(tmp_path: Path) -> None:
    try:
        with small_disk(tmp_path / "disk", 64) as remount:
            cache = DiskFeatureCache(tmp_path / "disk", {})

            def fill() -> None:
                for key in KEYS:
                    cache.store(key, entry(key))

            with pytest.raises(UserError, match=f"cache {tmp_path / 'disk'}: No space left on device. Free some"):
                fill()
            full = files(tmp_path / "disk")
            assert 0 < len(full) < len(KEYS)
            assert not [name for name in full if name.endswith(".tmp")]
            for key in KEYS:
                loaded = cache.load(key)
                assert (loaded is not None) == (f"{key}.safetensors" in full)
                assert loaded is None or torch.equal(loaded, entry(key))
            remount("size=1m")
            fill()
            assert files(tmp_path / "disk") == {f"{key}.safetensors" for key in KEYS}
    except PermissionError:
        pytest.skip("requires the permission to mount")
