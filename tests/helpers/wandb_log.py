"""Reader of the file that W&B writes for an offline run."""

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wandb.proto import wandb_internal_pb2

_BLOCK_BYTES, _HEADER_BYTES = 32768, 7
_FULL, _LAST = 1, 4  # types of a LevelDB log entry: a whole record, the last part of a record


def read_records(folder: Path) -> Iterator[Any]:
    """Yield all records of the only offline run below a run folder; its file is a LevelDB log of protobufs."""
    (path,) = folder.glob("wandb/offline-run-*/*.wandb")
    content, position, parts = path.read_bytes(), _HEADER_BYTES, b""
    while position + _HEADER_BYTES <= len(content):
        if _BLOCK_BYTES - position % _BLOCK_BYTES < _HEADER_BYTES:
            position += _BLOCK_BYTES - position % _BLOCK_BYTES
            continue
        start = position + _HEADER_BYTES
        _, length, kind = struct.unpack("<IHB", content[position:start])
        parts += content[start : start + length]
        position = start + length
        if kind in (_FULL, _LAST):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(parts)
            parts = b""
            yield record


def to_dict(items: Any) -> dict[str, Any]:
    """Return the items of a record as a dict; nested keys are joined by dots."""
    return {".".join(item.nested_key) or item.key: json.loads(item.value_json) for item in items}
