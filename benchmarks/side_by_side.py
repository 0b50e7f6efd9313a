"""What all benchmarks share: two sides agree, take turns, and end as a table and a JSON file."""

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
_CLOCKS = {"wall": time.perf_counter, "process": time.process_time}
_clock = "wall"


def parser(description: str | None) -> argparse.ArgumentParser:
    """Return a parser with what every benchmark takes."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--out", type=Path, help="JSON file to write")
    made.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1")
    made.add_argument("--repeats", type=int, default=5, help="timed calls of each side")
    made.add_argument("--threads", type=int, help="CPU threads; as torch decides if not given")
    made.add_argument(
        "--clock",
        choices=_CLOCKS,
        default="wall",
        help="process: CPU seconds of this process, for a machine with other work; meant for --threads 1",
    )
    made.add_argument("--smoke", action="store_true", help="the smallest sizes: whether it runs, not how fast")
    return made


def parse(made: argparse.ArgumentParser, given: Sequence[str] | None) -> argparse.Namespace:
    """Return the parsed arguments, with the number of threads and the clock set."""
    arguments = made.parse_args(given)
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    global _clock
    _clock = arguments.clock
    return arguments


def seconds(call: Callable[[], object], device: str = "cpu") -> float:
    """Return the time of one call by the chosen clock, with the device's queue empty before and after."""
    clock = _CLOCKS[_clock]
    _wait(device)
    start = clock()
    call()
    _wait(device)
    return clock() - start


def take_turns(sides: dict[str, Callable[[], object]], repeats: int, device: str = "cpu") -> dict[str, float]:
    """Return the median seconds of each side, called in turn so that both meet the same weather of the machine.

    A first round is not counted.
    """
    for call in sides.values():
        call()
    times: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(repeats):
        for name, call in sides.items():
            times[name].append(seconds(call, device))
    return {name: statistics.median(values) for name, values in times.items()}


def compared(times: dict[str, float], against: str, **more: Any) -> list[Row]:
    """Return a row a side: its seconds, and how many times faster it is than the one it is compared against."""
    return [{"form": name, **more, "seconds": t, "ratio": times[against] / t} for name, t in times.items()]


def agree(what: str, ours: Tensor, other: Tensor, tolerance: float) -> float:
    """Return the largest difference of two results.

    Raises:
        AssertionError: If it exceeds the tolerance, or one of them is not finite.
    """
    difference = float((ours.detach().double() - other.detach().double()).abs().max())
    if not difference <= tolerance:
        raise AssertionError(f"{what}: the two sides differ by {difference}, more than {tolerance}.")
    return difference


def machine(device: str = "cpu") -> dict[str, Any]:
    """Return what the times depend on besides the code."""
    return {
        "device": torch.cuda.get_device_name(device) if _is_cuda(device) else _processor(),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "clock": _clock,
        "bf16_instructions": bool({"avx512_bf16", "amx_bf16"} & _flags()),
        "torch": torch.__version__,
    }


def show(rows: Sequence[Row], columns: dict[str, str]) -> None:
    """Print a table; ``columns`` gives each key its format, which also sets the width of the heading."""
    cells = [[key.replace("_", " ") for key in columns]]
    cells += [[format(row.get(key, ""), form if key in row else "") for key, form in columns.items()] for row in rows]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    for line in cells:
        padded = [cell.rjust(width) for cell, width in zip(line, widths, strict=True)]
        print("  ".join([line[0].ljust(widths[0]), *padded[1:]]))


def write(out: Path | None, result: Row, device: str = "cpu") -> None:
    """Write a result and the machine to a JSON file, if one was asked for."""
    if out is not None:
        out.write_text(json.dumps({**result, "machine": machine(device)}, indent=2, default=str) + "\n")


def _is_cuda(device: str) -> bool:
    return torch.device(device).type == "cuda"


def _wait(device: str) -> None:
    if _is_cuda(device):
        torch.cuda.synchronize(device)


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    names = [line.split(":")[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _flags() -> set[str]:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    return {flag for line in lines if line.startswith("flags") for flag in line.split()}
