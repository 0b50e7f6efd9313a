"""The long form of the fault injection: ``python -m tests.faults --kills 50``; prints the table of docs/reliability.md.

A run counts as lost if the same command does not bring it to its end, or a fault is told by a traceback or not at all;
as wrong if it ends with another result. What happened goes to standard error, and the exit status is then 1.
"""

import argparse
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "tests")]

from faults import scenarios  # noqa: E402
from faults.harness import Bench, WrongResultError  # noqa: E402
from faults.scenarios import SAME  # noqa: E402
from helpers.processes import Processes  # noqa: E402

LOST, WRONG = "lost", "wrong"

Row = tuple[str, int, Counter[str]]


def attempt(seen: Counter[str], injection: Callable[[], str]) -> None:
    """Inject a fault and count what became of it."""
    try:
        seen[injection()] += 1
    except WrongResultError as error:
        seen[WRONG] += 1
        print(error, file=sys.stderr)
    except (AssertionError, TimeoutError) as error:
        seen[LOST] += 1
        print(error, file=sys.stderr)


def kills(bench: Bench, count: int, dice: random.Random) -> Iterator[Row]:
    """Kill at random times, and at operations on files."""
    phases: Counter[str] = Counter()
    seen: Counter[str] = Counter()

    def one_run(name: str) -> str:
        before = phases.total()
        for phase in scenarios.killed_at_random(bench, name, dice, count - before):
            phases[phase] += 1
        seen[SAME] += phases.total() - before - 1  # attempt counts one itself
        return SAME

    number = 0
    while phases.total() < count and number < count:
        attempt(seen, partial(one_run, f"random{number}"))
        number += 1
    yield f"`kill -9` at a random time, same command again ({_listed(phases)})", phases.total(), seen
    for within, most in (("run", 80), ("cache", 40)):
        seen = Counter()
        for place in sorted(dice.sample(range(1, most), min(count // 3 + 1, most - 1))):
            attempt(seen, partial(scenarios.killed_at_operation, bench, f"operation-{within}-{place}", place, within))
        del seen[scenarios.NOT_REACHED]
        where = "the run folder" if within == "run" else "the feature cache"
        yield f"`kill -9` just before an open, rename or removal in {where}", seen.total(), seen


def stops(bench: Bench, count: int, dice: random.Random) -> Iterator[Row]:
    """Ask to stop in every phase, and start a second process."""
    phases = (r"features: +\d+%", r"task 1/2 bottle: +\d+%", "evaluate 1/2", r"task 2/2 screw: +\d+%")
    seen: Counter[str] = Counter()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        for place, phase in enumerate(phases):
            attempt(seen, partial(scenarios.stopped, bench, f"stop-{number}-{place}", number, phase))
    yield "SIGINT, SIGTERM, SIGHUP in features, training, evaluation", seen.total(), seen
    seen = Counter()
    for number in range(5):
        attempt(seen, partial(scenarios.two_at_once, bench, f"two{number}"))
    yield "the same command started again while it runs", seen.total(), seen


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
                attempt(seen, partial(scenarios.damaged, bench, job, pattern, kind, dice))
            yield f"`{pattern}` of {title} run cut, flipped, zeroed, missing", seen.total(), seen
    seen = Counter()
    for kind in scenarios.DAMAGES:
        attempt(seen, partial(scenarios.damaged_entry, bench, f"entry-{kind}".replace(" ", "_"), kind, dice))
    yield "an entry of the feature cache cut, flipped, zeroed, missing", seen.total(), seen


def disks(bench: Bench, count: int, dice: random.Random) -> Iterator[Row]:
    """Fill the disk, and take the permission to write away."""
    sizes = (8, 16, 40, 100, 200, 300, 400, 600)
    seen: Counter[str] = Counter()
    try:
        for size in sizes:
            attempt(seen, partial(scenarios.full_disk, bench, f"full-{size}", size))
        yield f"disk full (tmpfs of {', '.join(map(str, sizes))} kB), then room", seen.total(), seen
        seen = Counter()
        attempt(seen, partial(scenarios.read_only, bench, "read-only"))
        yield "folder read-only, then writable", seen.total(), seen
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
    start, faults = time.monotonic(), 0
    with tempfile.TemporaryDirectory() as folder, Processes() as processes:
        bench = Bench(Path(folder), processes)
        print("| fault | injected | same result | refused by name | runs lost | wrong results |")
        print("|---|---|---|---|---|---|", flush=True)
        for part in arguments.parts or PARTS:
            for fault, injected, seen in PARTS[part](bench, arguments.kills, random.Random(arguments.seed)):
                counts = " | ".join(str(seen[what]) for what in (SAME, scenarios.REFUSED, LOST, WRONG))
                print(f"| {fault} | {injected} | {counts} |", flush=True)
                faults += seen[LOST] + seen[WRONG]
    print(f"\n{time.monotonic() - start:.0f} s, seed {arguments.seed}.")
    sys.exit(int(faults > 0))


if __name__ == "__main__":
    main()
