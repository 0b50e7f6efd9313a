"""Short form of all benchmarks that measure time, as one table; `make bench` runs it.

    python benchmarks/short.py --threads 2 --out short.json

Each benchmark asserts equal results first. *ratio* is the time of the reference divided by that of the form, as in the
benchmark's own table. `decisions` and `expert_size` measure no time and are not part of it.
"""

import contextlib
import importlib
import io
import json
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from side_by_side import Row, benchmark_parser, parse_args, print_table, write_result

SHORT: dict[str, list[str]] = {
    "features": ["--images", "16", "--repeats", "3"],
    "memory_bank": ["--images", "40", "--repeats", "3"],
    "patch_pooling": ["--batch", "2", "--repeats", "3"],
    "training_step": ["--batch", "2", "--repeats", "2"],
    "later_task": ["--images", "16", "--batch", "2", "--repeats", "1"],
    "routed_inference": ["--images", "3", "--repeats", "2"],
    "pixel_metrics": ["--categories", "2", "--images", "20", "--repeats", "2"],
    "growth": ["--epochs", "1"],
    "router": ["--smoke"],
    "parallel": ["--smoke"],
    "report": ["--smoke"],
}
"""Arguments of the short form by benchmark."""


def main(args: Sequence[str] | None = None) -> None:
    """Run the benchmarks one after another and print the table of all."""
    options = parse_args(benchmark_parser(__doc__), args)
    shared = ["--device", options.device, "--clock", options.clock]
    rows: list[Row] = []
    for name, arguments in SHORT.items():
        print(f"{name} ...", flush=True)
        start = time.perf_counter()
        rows += run(name, [*shared, *(["--smoke"] if options.smoke else arguments)])
        print(f"{name}: {time.perf_counter() - start:.0f} s", flush=True)
    print()
    print_table(rows, {"benchmark": "", "form": "", "seconds": ".4f", "ratio": ".2f"})
    write_result(options.out, {"rows": rows}, options.device)


def run(name: str, arguments: Sequence[str]) -> list[Row]:
    """Run a benchmark without its output and return the rows of its times.

    Args:
        name: The benchmark.
        arguments: Its command line.
    """
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        out = Path(folder) / "result.json"
        importlib.import_module(name).main([*arguments, "--out", str(out)])
        return list(time_rows(name, json.loads(out.read_text())))


def time_rows(name: str, result: Mapping[str, object]) -> Iterator[Row]:
    """Yield name, form, seconds and ratio of each timed form in a benchmark's result; some have no ratio.

    Args:
        name: The benchmark.
        result: The content of its JSON file.
    """
    if name == "growth":
        for key in ("early_seconds", "late_seconds"):
            yield {"benchmark": name, "form": f"later task, {key.removesuffix('_seconds')}", "seconds": result[key]}
        return
    rows = result["routers" if name == "router" else "rows"]
    assert isinstance(rows, list)
    for row in rows:
        form = row.get("form") or row.get("metric")
        if form is None:
            form = f"{row['experts']} experts, one more" if name == "router" else f"{row['runs']} runs"
        seconds = next(row[key] for key in ("seconds", "seconds_per_task", "add_seconds") if key in row)
        yield {"benchmark": name, "form": form, "seconds": seconds, **{k: row[k] for k in ("ratio",) if k in row}}


if __name__ == "__main__":
    main()
