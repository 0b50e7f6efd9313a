"""Atomic writes, checksums, stale temporaries and file locks."""

import json
import math
import multiprocessing
import os
import time
from pathlib import Path
from typing import Any

import pytest

from moleflow.utils.errors import UserError
from moleflow.utils.io import (
    atomic_write,
    file_lock,
    read_checksummed_json,
    read_json,
    remove_stale_temporaries,
    sha256,
    shorten_name,
    to_jsonable,
    write_checksummed_json,
    write_json,
    write_text,
)

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")  # of os.fork, from Python 3.12 on


def test_atomic_write_keeps_the_former_content_after_an_error(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "file.txt"
    write_text(path, "former")

    def write_half() -> None:
        with atomic_write(path) as temporary:
            temporary.write_text("half")
            raise KeyError

    with pytest.raises(KeyError):
        write_half()
    assert path.read_text() == "former"
    assert os.listdir(path.parent) == ["file.txt"]


def test_atomic_write_below_a_file_is_a_user_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"file is a file\. Choose a folder\.$"):
        write_text(tmp_path / "file" / "a.txt", "")


def test_json_has_null_in_place_of_nan_and_infinity(tmp_path: Path) -> None:
    content = {"a": [math.nan, 1.5], 2: (math.inf, None), "c": {"d": "e"}}
    assert to_jsonable(content) == {"a": [None, 1.5], "2": [None, None], "c": {"d": "e"}}
    write_json(tmp_path / "a.json", content)
    assert read_json(tmp_path / "a.json") == to_jsonable(content)
    assert len(sha256(tmp_path / "a.json")) == 64


def test_a_changed_digit_does_not_match_the_checksum(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_checksummed_json(path, {"value": 0.25, "list": (1, 2)})
    assert read_checksummed_json(path) == {"value": 0.25, "list": [1, 2]}
    path.write_text(path.read_text().replace("0.25", "0.26"))
    with pytest.raises(UserError, match=r"a\.json is damaged: its content does not match its checksum"):
        read_checksummed_json(path)


@pytest.mark.parametrize("text", ["{", "[]", "{}", json.dumps({"checksum": 1})])
def test_a_damaged_checksummed_file_is_a_user_error(text: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(UserError, match="damaged"):
        read_checksummed_json(tmp_path / "a.json")
    with pytest.raises(UserError, match="is missing"):
        read_json(tmp_path / "b.json")


def test_only_temporaries_of_the_minimum_age_are_removed(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    old, new, other = tmp_path / "below/.a.json.x.tmp", tmp_path / ".b.json.y.tmp", tmp_path / "c.tmp"
    for path in (old, new, other):
        path.touch()
    os.utime(old, (time.time() - 100,) * 2)
    remove_stale_temporaries(tmp_path, older_than=50)
    assert (old.exists(), new.exists(), other.exists()) == (False, True, True)
    remove_stale_temporaries(tmp_path)
    assert (new.exists(), other.exists()) == (False, True)


def _lock_until_closed(path: Path, pipe: Any) -> None:
    with file_lock(path, wait=False) as file:
        file.write("owner")
        file.flush()
        pipe.send("locked")
        pipe.recv()


def _try_lock(path: Path, wait: bool, pipe: Any) -> None:
    try:
        with file_lock(path, wait):
            pipe.send("locked")
    except BlockingIOError:
        pipe.send("blocked")


def test_a_lock_excludes_other_processes_until_its_owner_is_killed(tmp_path: Path) -> None:
    path, context = tmp_path / "folder" / ".lock", multiprocessing.get_context("fork")
    pipe, end = context.Pipe()
    owner = context.Process(target=_lock_until_closed, args=(path, end))
    owner.start()
    assert pipe.recv() == "locked"
    with pytest.raises(BlockingIOError), file_lock(path, wait=False):
        pass
    assert path.read_text() == "owner"
    waiting_pipe, waiting_end = context.Pipe()
    waiting = context.Process(target=_try_lock, args=(path, True, waiting_end))
    waiting.start()
    assert not waiting_pipe.poll(0.2)
    owner.kill()
    assert waiting_pipe.recv() == "locked"
    for process in (owner, waiting):
        process.join()
    with file_lock(path, wait=False) as file:
        file.seek(0)
        assert file.read() == "owner"


def test_a_forked_process_does_not_inherit_the_lock(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    pipe, end = context.Pipe()
    with file_lock(tmp_path / ".lock", wait=False):
        child = context.Process(target=_try_lock, args=(tmp_path / ".lock", False, end))
        child.start()
        assert pipe.recv() == "blocked"
        child.join()


def test_a_surviving_forked_process_does_not_hold_the_lock(tmp_path: Path) -> None:
    path, context = tmp_path / ".lock", multiprocessing.get_context("fork")
    pipe, end = context.Pipe()
    with file_lock(path, wait=False):
        child = context.Process(target=lambda: end.recv())
        child.start()
    with file_lock(path, wait=False):  # the child is alive and has inherited the first file object
        assert child.is_alive()
    pipe.send("end")
    child.join()


def test_long_names_are_shortened_by_bytes_and_stay_distinct() -> None:
    assert shorten_name("a" * 120) == "a" * 120
    names = ["a" * 121, "a" * 122, "가" * 41, "가" * 42, "\udcff" * 200]
    short = [shorten_name(name) for name in names]
    assert len(set(short)) == len(names)
    assert all(len(name.encode()) <= 120 for name in short)
    assert shorten_name("a", "a=1") != shorten_name("a", "a=2")
