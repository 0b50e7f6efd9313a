"""Independence of a process from the encoding of its output, displays and undecodable file names."""

import io
import os
import sys

import pytest

from moleflow.utils.environment import escape_undecodable, prepare_process


@pytest.mark.parametrize("encoding", ["ascii", "cp949", "utf-8"])
def test_output_escapes_what_its_encoding_lacks(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    output = io.TextIOWrapper(io.BytesIO(), encoding, errors="strict")
    monkeypatch.setattr(sys, "stdout", output)
    prepare_process()
    print("Prüfling 한글 \udcc7", end="", flush=True)
    content = output.buffer.getvalue()  # type: ignore[attr-defined]
    assert content == "Prüfling 한글 \udcc7".encode(encoding, "backslashreplace")


def test_other_error_handlers_of_output_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    output = io.TextIOWrapper(io.BytesIO(), "ascii", errors="surrogateescape")
    monkeypatch.setattr(sys, "stdout", output)
    prepare_process()
    assert output.errors == "surrogateescape"


def test_output_without_encoding_is_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    monkeypatch.setattr(sys, "stderr", None)  # as of pythonw.exe
    prepare_process()


def test_backend_of_a_notebook_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MPLBACKEND", "module://matplotlib_inline.backend_inline")
    prepare_process()
    assert os.environ["MPLBACKEND"] == "agg"


def test_undecodable_bytes_are_escaped() -> None:
    assert escape_undecodable("Prüfling 한글 a\\b.png") == "Prüfling 한글 a\\b.png"
    assert escape_undecodable(os.fsdecode(b"caf\xe9.png")) == r"caf\xe9.png"
