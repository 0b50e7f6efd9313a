"""The long form of the fault injection: ``python -m tests.faults --kills 50``; prints the table of docs/reliability.md.

It ends at the first run that gives another result, dies with a traceback or cannot go on, so a table is one without.
"""

import argparse
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "tests")]

from faults import scenarios  # noqa: E402
from faults.harness import Bench  # noqa: E402

Row = tuple[str, int, Counter[str]]


def kills(bench: Bench, count: int, dice: random.Random) -> Iterator[Row]:
    """Kill at random times, and at operations on files."""
    phases: Counter[str] = Counter()
    number = 0
    while phases.total() < count:
        phases.update(scenarios.killed_at_random(bench, f"random{number}", dice, count - phases.total()))
        number += 1
    yield f"`kill -9` at a random time, same command again ({_listed(phases)})", count, Counter({scenarios.SAME: count})
    for within, most in (("run", 80), ("cache", 40)):
        done = sum(
            scenarios.killed_at_operation(bench, f"operation-{within}-{number}", number, within)
            for number in sorted(dice.sample(range(1, most), min(count // 3 + 1, most - 1)))
        )
        where = "the run folder" if within == "run" else "the feature cache"
        yield f"`kill -9` just before an open, rename or removal in {where}", done, Counter({scenarios.SAME: done})


def stops(bench: Bench, count: int, dice: random.Random) -> Iterator[Row]:
    """Ask to stop in every phase, and start a second process."""
    phases = (r"features: +\d+%", r"task 1/2 bottle: +\d+%", "evaluate 1/2", r"task 2/2 screw: +\d+%")
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        for place, phase in enumerate(phases):
            scenarios.stopped(bench, f"stop-{number}-{place}", number, phase)
    done = 3 * len(phases)
    yield "SIGINT, SIGTERM, SIGHUP in features, training, evaluation", done, Counter({scenarios.SAME: done})
    refused = scenarios.two_at_once(bench, "two", others=5)
    yield "the same command started again while it runs", refused, Counter({scenarios.REFUSED: refused})


def damages(bench: Bench, count: int, dice: random.Random) -> Iterator[Row]:
    """Damage every kind of file in every way."""
    for title, patterns, source in (
        ("an unfinished", scenarios.UNFINISHED, bench.half),
        ("a finished", scenarios.FINISHED, lambda name: bench.copy(bench.reference, name)),
    ):
        for pattern in patterns:
            seen: Counter[str] = Counter()
            for kind in scenarios.DAMAGES:
                job = source(f"{title}-{pattern}-{kind}".translate(str.maketrans("/* .", "____")))
                seen[scenarios.damaged(bench, job, pattern, kind, dice)] += 1
            yield f"`{pattern}` of {title} run cut, flipped, zeroed, missing", seen.total(), seen
    seen = Counter(
        scenarios.damaged_entry(bench, f"entry-{kind}".replace(" ", "_"), kind, dice) for kind in scenarios.DAMAGES
    )
    yield "an entry of the feature cache cut, flipped, zeroed, missing", seen.total(), seen


def disks(bench: Bench, count: int, dice: random.Random) -> Iterator[Row]:
    """Fill the disk, and take the permission to write away."""
    sizes = (8, 16, 40, 100, 200, 300, 400, 600)
    try:
        seen = Counter(scenarios.full_disk(bench, f"full-{size}", size) for size in sizes)
        yield f"disk full (tmpfs of {', '.join(map(str, sizes))} kB), then room", seen.total(), seen
        yield "folder read-only, then writable", 1, Counter([scenarios.read_only(bench, "read-only")])
    except PermissionError:
        print("This process may not mount: disk full and read-only are left out.", file=sys.stderr)


PARTS = {"kills": kills, "stops": stops, "damages": damages, "disks": disks}


def _listed(counts: Counter[str]) -> str:
    return ", ".join(f"{phase} {count}" for phase, count in counts.items())


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--kills", type=int, default=50, help="kills at random times")
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"some of {', '.join(PARTS)}; default: all")
    parser.add_argument("--seed", type=int, default=0, help="of times and places")
    arguments = parser.parse_args()
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder, Bench(Path(folder)) as bench:
        print("| fault | injected | same result | refused by name | runs lost | wrong results |")
        print("|---|---|---|---|---|---|", flush=True)
        for part in arguments.parts or PARTS:
            for fault, injected, seen in PARTS[part](bench, arguments.kills, random.Random(arguments.seed)):
                counts = f"{seen[scenarios.SAME]} | {seen[scenarios.REFUSED]}"
                print(f"| {fault} | {injected} | {counts} | 0 | 0 |", flush=True)
    print(f"\n{time.monotonic() - start:.0f} s, seed {arguments.seed}.")


if __name__ == "__main__":
    main()
