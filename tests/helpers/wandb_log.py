"""Reads what W&B wrote into an offline run's own file."""

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wandb.proto import wandb_internal_pb2

_BLOCK, _HEADER = 32768, 7


def records(folder: Path) -> Iterator[Any]:
    """Yield every record of the only offline run below a run folder (a LevelDB log of protobufs)."""
    (path,) = folder.glob("wandb/offline-run-*/*.wandb")
    content, place, pieces = path.read_bytes(), _HEADER, b""
    while place + _HEADER <= len(content):
        if _BLOCK - place % _BLOCK < _HEADER:
            place += _BLOCK - place % _BLOCK
            continue
        _, length, kind = struct.unpack("<IHB", content[place : place + _HEADER])
        pieces += content[place + _HEADER : place + _HEADER + length]
        place += _HEADER + length
        if kind in (1, 4):  # a whole record, or the last piece of one
            record = wandb_internal_pb2.Record()
            record.ParseFromString(pieces)
            pieces = b""
            yield record


def items(update: Any) -> dict[str, Any]:
    """Return key and value of a record's items; nested keys are joined by dots."""
    return {".".join(item.nested_key) or item.key: json.loads(item.value_json) for item in update}
