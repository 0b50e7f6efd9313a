"""Reader of the file that W&B writes for an offline run.

``PYTHONPATH=tests python -m helpers.wandb_log RUN`` prints the content of a run's log as Markdown.
"""

import json
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wandb.proto import wandb_internal_pb2

STEP = "trainer/global_step"
"""The step axis."""
_BLOCK_BYTES, _HEADER_BYTES = 32768, 7
_FULL, _LAST = 1, 4  # types of a LevelDB log entry: a whole record, the last part of a record


def read_records(folder: Path) -> Iterator[Any]:
    """Yield all records of the only offline run below a run folder."""
    (path,) = folder.glob("wandb/offline-run-*/*.wandb")
    yield from read_file(path)


def read_file(path: Path) -> Iterator[Any]:
    """Yield all records of a file of W&B, which is a LevelDB log of protobufs."""
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


def of_kind(records: list[Any], kind: str) -> list[Any]:
    """Return the records of one kind, such as ``history``."""
    return [getattr(record, kind) for record in records if record.WhichOneof("record_type") == kind]


def history(records: list[Any]) -> list[dict[str, Any]]:
    """Return the logged rows by key; an image or a table is a mapping or has several keys with dots."""
    return [to_dict(row.item) for row in of_kind(records, "history")]


def listing(folder: Path) -> list[str]:
    """Return the content of a run's log as lines of Markdown: the run, one row per key, and the artifacts."""
    records = list(read_records(folder))
    (run,) = of_kind(records, "run")
    tags = ", ".join(run.tags)
    lines = [
        f"id `{run.run_id}`, name `{run.display_name}`, group `{run.run_group}`, job type `{run.job_type}`,",
        f"tags {tags}, notes: {run.notes}",
        "",
        "| key | kind | entries | steps | first | last |",
        "|---|---|---|---|---|---|",
    ]
    values: dict[str, list[tuple[int, Any]]] = {}
    for row in history(records):
        media = {key.removesuffix("._type"): value for key, value in row.items() if key.endswith("._type")}
        for key, kind in media.items():
            values.setdefault(key, []).append((row[STEP], kind))
        for key, value in row.items():
            if isinstance(value, dict) and "_type" in value:
                values.setdefault(key, []).append((row[STEP], value["_type"]))
            elif isinstance(value, int | float) and not key.startswith("_") and key.rpartition(".")[0] not in media:
                values.setdefault(key, []).append((row[STEP], float(value)))
    values.pop(STEP)
    for key, points in sorted(values.items()):
        steps = sorted({step for step, _ in points})
        span = ", ".join(map(str, steps)) if len(steps) <= 4 else f"{steps[0]} to {steps[-1]}"
        numbers = [f"{value:.4g}" if isinstance(value, float) else "" for _, value in (points[0], points[-1])]
        kind = points[0][1] if isinstance(points[0][1], str) else "scalar"
        lines.append(f"| `{key}` | {kind} | {len(points)} | {span} | {numbers[0]} | {numbers[1]} |")
    lines.append("")
    for artifact in of_kind(records, "artifact"):
        if artifact.type == "model":
            names = ", ".join(entry.path for entry in artifact.manifest.contents)
            lines.append(f"artifact `{artifact.name}` ({', '.join(artifact.aliases)}): {names}")
    return lines


if __name__ == "__main__":
    print("\n".join(listing(Path(sys.argv[1]))))
