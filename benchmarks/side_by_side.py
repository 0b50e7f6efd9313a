"""Comparison of two implementations, the sides of a benchmark: equal results, then times as a table and a JSON file."""

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

Row = dict[str, Any]
"""Row of a table, by column."""

_CLOCKS = {"wall": time.perf_counter, "process": time.process_time}
_clock = "wall"


def benchmark_parser(description: str | None) -> argparse.ArgumentParser:
    """Return a parser with the arguments that all benchmarks have."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1")
    parser.add_argument("--repeats", type=int, default=5, help="timed calls of each side")
    parser.add_argument("--threads", type=int, help="CPU threads; default: those of torch")
    parser.add_argument(
        "--clock",
        choices=_CLOCKS,
        default="wall",
        help="process: CPU seconds of this process, for a machine with other work; intended for --threads 1",
    )
    parser.add_argument("--smoke", action="store_true", help="smallest sizes, to test that the benchmark runs")
    return parser


def parse_args(parser: argparse.ArgumentParser, args: Sequence[str] | None) -> argparse.Namespace:
    """Parse the arguments, and set the number of threads and the clock.

    Args:
        parser: Return value of :func:`benchmark_parser`.
        args: The command line; None: that of the process.
    """
    namespace = parser.parse_args(args)
    if namespace.threads:
        torch.set_num_threads(namespace.threads)
    global _clock
    _clock = namespace.clock
    return namespace


def clock() -> float:
    """Return the reading of the selected clock in seconds."""
    return _CLOCKS[_clock]()


def seconds(call: Callable[[], object], device: str = "cpu") -> float:
    """Return the seconds of one call by the selected clock, with the device synchronized before and after.

    Args:
        call: The function.
        device: Where it computes.
    """
    _synchronize(device)
    start = clock()
    call()
    _synchronize(device)
    return clock() - start


def time_alternately(sides: dict[str, Callable[[], object]], repeats: int, device: str = "cpu") -> dict[str, float]:
    """Return the median seconds of each side.

    The sides are called in turn, so that other work on the machine affects all of them. A first round is not timed.

    Args:
        sides: The functions by name.
        repeats: Timed calls of each.
        device: Where they compute.
    """
    for call in sides.values():
        call()
    times: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(repeats):
        for name, call in sides.items():
            times[name].append(seconds(call, device))
    return {name: statistics.median(values) for name, values in times.items()}


def comparison_rows(times: dict[str, float], reference: str, **columns: Any) -> list[Row]:
    """Return one row per side: its seconds, and the seconds of the reference divided by them.

    Args:
        times: Seconds by side.
        reference: The side that all are compared with.
        columns: Further columns, equal in all rows.
    """
    return [{"form": name, **columns, "seconds": t, "ratio": times[reference] / t} for name, t in times.items()]


def assert_close(name: str, ours: Tensor, other: Tensor, tolerance: float) -> float:
    """Return the largest difference of two results.

    Args:
        name: Name of the result, for the message.
        ours: Result of moleflow.
        other: Result of the other side.
        tolerance: Largest allowed difference.

    Raises:
        AssertionError: If the difference exceeds the tolerance or is not finite.
    """
    difference = float((ours.detach().double() - other.detach().double()).abs().max())
    if not difference <= tolerance:
        raise AssertionError(f"{name}: the two sides differ by {difference}, more than {tolerance}.")
    return difference


def machine(device: str = "cpu") -> dict[str, Any]:
    """Return properties of the machine and the process that the times depend on.

    Args:
        device: Where the benchmark computed.
    """
    return {
        "device": torch.cuda.get_device_name(device) if _is_cuda(device) else _processor(),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "clock": _clock,
        "bf16_instructions": bool({"avx512_bf16", "amx_bf16"} & _cpu_flags()),
        "torch": torch.__version__,
    }


def print_table(rows: Sequence[Row], columns: dict[str, str]) -> None:
    """Print rows as a table.

    Args:
        rows: The rows; cells without a value are empty.
        columns: Format specification of each column, by its key in the rows.
    """
    cells = [[key.replace("_", " ") for key in columns]]
    cells += [[format(row.get(key, ""), spec if key in row else "") for key, spec in columns.items()] for row in rows]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    for line in cells:
        padded = [cell.rjust(width) for cell, width in zip(line, widths, strict=True)]
        print("  ".join([line[0].ljust(widths[0]), *padded[1:]]))


def write_result(path: Path | None, result: Row, device: str = "cpu") -> None:
    """Write a result and the machine to a JSON file.

    Args:
        path: The file; None: nothing is written.
        result: The result.
        device: Where the benchmark computed.
    """
    if path is not None:
        path.write_text(json.dumps({**result, "machine": machine(device)}, indent=2, default=str) + "\n")


def resident_bytes() -> int:
    """Return the resident memory of this process (Linux)."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _is_cuda(device: str) -> bool:
    return torch.device(device).type == "cuda"


def _synchronize(device: str) -> None:
    if _is_cuda(device):
        torch.cuda.synchronize(device)


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _cpu_flags() -> set[str]:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    return {flag for line in lines if line.startswith("flags") for flag in line.split()}
