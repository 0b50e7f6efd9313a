"""The cache between processes: writers at once, one killed while it writes, a disk that gets full."""

import os
import signal
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch

from faults.scenarios import small_disk
from moleflow.errors import UserError
from moleflow.features import FeatureCache

KEYS = [f"{i % 3:02x}{i:04x}" for i in range(60)]


def entry(key: str) -> torch.Tensor:
    return torch.full((4, 4, 16), float(int(key, 16)))


def forked(work: Callable[[], None]) -> int:
    """Do the work in a process of its own and return its id; its exit status is 0 if nothing was raised."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # newer Pythons warn where torch has made a thread
        pid = os.fork()
    if not pid:
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    return pid


def status_of(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.rglob("*") if path.is_file()}


def test_two_processes_write_the_same_entries_at_once(tmp_path: Path) -> None:
    begin, open_gate = os.pipe()

    def write(keys: list[str]) -> None:
        os.close(open_gate)
        os.read(begin, 1)  # returns in both at once, when the parent closes its end
        cache = FeatureCache(tmp_path, {})
        for key in keys:
            cache.store(key, entry(key))
            loaded = cache.load(key)
            assert loaded is not None
            assert torch.equal(loaded, entry(key))

    writers = [forked(partial(write, keys)) for keys in (KEYS, KEYS[::-1])]
    os.close(begin)
    os.close(open_gate)
    assert [status_of(writer) for writer in writers] == [0, 0]
    assert files(tmp_path) == {f"{key}.safetensors" for key in KEYS}
    cache = FeatureCache(tmp_path, {})
    for key in KEYS:
        loaded = cache.load(key)
        assert loaded is not None
        assert torch.equal(loaded, entry(key))


def test_a_killed_writer_leaves_no_entry_and_nothing_for_ever(tmp_path: Path) -> None:
    key, other = KEYS[0], KEYS[3]
    assert other[:2] == key[:2]

    def die_in_the_middle() -> None:
        def half_of_it(path: Path, content: bytes) -> None:
            with path.open("wb") as file:
                file.write(content[: len(content) // 2])
            os.kill(os.getpid(), signal.SIGKILL)

        Path.write_bytes = half_of_it  # type: ignore[method-assign,assignment]
        FeatureCache(tmp_path, {}).store(key, entry(key))

    assert status_of(forked(die_in_the_middle)) == -signal.SIGKILL
    (remains,) = tmp_path.rglob("*.tmp")
    assert remains.stat().st_size > 0
    cache = FeatureCache(tmp_path, {})
    assert key not in cache
    assert cache.load(key) is None
    cache.store(key, entry(key))  # a process that lives may still be writing: what is young stays
    assert files(tmp_path) == {f"{key}.safetensors", remains.name}
    loaded = cache.load(key)
    assert loaded is not None
    assert torch.equal(loaded, entry(key))

    hours_ago = time.time() - 2 * 3600
    os.utime(remains, (hours_ago, hours_ago))
    FeatureCache(tmp_path, {}).store(other, entry(other))
    assert files(tmp_path) == {f"{key}.safetensors", f"{other}.safetensors"}


def test_a_full_disk_leaves_whole_entries_only(tmp_path: Path) -> None:
    try:
        with small_disk(tmp_path / "disk", 64) as remount:
            cache = FeatureCache(tmp_path / "disk", {})

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
        pytest.skip("this process may not mount")
