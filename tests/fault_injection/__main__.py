"""Fault injection in its long form; prints the tables of docs/reliability.md.

    python -m tests.fault_injection --kills 50
    python -m tests.fault_injection hostile --attacks 300

A run is lost if the same command does not finish it afterwards, or if an error is reported with a traceback or not at
all. A result is wrong if it differs from that of an undisturbed run. Lost runs and wrong results are described on
standard error, and the exit status is then 1.
"""

import argparse
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "tests")]

from fault_injection import scenarios  # noqa: E402
from fault_injection.harness import CLOSED_FORM, WITH_IMAGES, Harness, WrongResultError  # noqa: E402
from fault_injection.hostile import COMMANDS, HostileFolders, Outcome, attack, commands_on  # noqa: E402
from fault_injection.scenarios import SAME  # noqa: E402
from helpers.processes import Processes  # noqa: E402
from helpers.program import LARGE_SET, TINY, run_program  # noqa: E402
from helpers.trees import write_mvtec_tree  # noqa: E402
from moleflow.cli.command import main as moleflow_main  # noqa: E402

LOST, WRONG = "lost", "wrong"

Row = tuple[str, int, Counter[str]]
"""Name of a fault, number of injections, and count of each outcome."""


def attempt(outcomes: Counter[str], injection: Callable[[], str]) -> None:
    """Inject a fault and count its outcome.

    Args:
        outcomes: The count is added here.
        injection: Injects the fault and returns the outcome.
    """
    try:
        outcomes[injection()] += 1
    except WrongResultError as error:
        outcomes[WRONG] += 1
        print(error, file=sys.stderr)
    except (AssertionError, TimeoutError):
        outcomes[LOST] += 1
        traceback.print_exc()


def repeat(count: int, injection: Callable[[int], str]) -> Counter[str]:
    """Inject a fault until it was reached ``count`` times, in at most three times as many attempts.

    Args:
        count: Number of faults.
        injection: Injects the fault number n and returns the outcome.
    """
    outcomes: Counter[str] = Counter()
    for number in range(3 * count):
        attempt(outcomes, partial(injection, number))
        if outcomes.total() - outcomes[scenarios.NOT_REACHED] == count:
            break
    del outcomes[scenarios.NOT_REACHED]
    return outcomes


def kills(harness: Harness, count: int, rng: random.Random) -> Iterator[Row]:
    """Kill runs at random times and at operations on files."""
    phases: Counter[str] = Counter()
    outcomes: Counter[str] = Counter()

    def one_run(name: str) -> str:
        before = phases.total()
        for phase in scenarios.kill_at_random_times(harness, name, rng, count - before):
            phases[phase] += 1
        outcomes[SAME] += phases.total() - before - 1  # attempt() counts the last one
        return SAME

    number = 0
    while phases.total() < count and number < count:
        attempt(outcomes, partial(one_run, f"random{number}"))
        number += 1
    counts = ", ".join(f"{phase} {count}" for phase, count in phases.items())
    yield f"`kill -9` at a random time, same command again ({counts})", phases.total(), outcomes
    for within, operations in (("run", 80), ("cache", 40)):
        outcomes = Counter()
        for operation in sorted(rng.sample(range(1, operations), min(count // 3 + 1, operations - 1))):
            name = f"operation-{within}-{operation}"
            attempt(outcomes, partial(scenarios.kill_at_file_operation, harness, name, operation, within, WITH_IMAGES))
        del outcomes[scenarios.NOT_REACHED]
        where = "the run folder" if within == "run" else "the feature cache"
        yield f"`kill -9` just before an open, rename or removal in {where}", outcomes.total(), outcomes


def stops(harness: Harness, count: int, rng: random.Random) -> Iterator[Row]:
    """Send signals in every phase, and start a second process."""
    phases = (r"features: +\d+%", r"task 1/2 bottle: +\d+%", "evaluate 1/2", r"task 2/2 screw: +\d+%")
    outcomes: Counter[str] = Counter()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        for i, pattern in enumerate(phases):
            attempt(outcomes, partial(scenarios.stop_by_signal, harness, f"stop-{number}-{i}", number, pattern))
    yield "SIGINT, SIGTERM, SIGHUP in features, training, evaluation", outcomes.total(), outcomes
    outcomes = Counter()
    for number in range(5):
        attempt(outcomes, partial(scenarios.start_twice, harness, f"two{number}"))
    yield "the same command started again while it runs", outcomes.total(), outcomes


def damages(harness: Harness, count: int, rng: random.Random) -> Iterator[Row]:
    """Damage every kind of file in every way."""
    for title, patterns, source in (
        ("an unfinished", scenarios.UNFINISHED, harness.killed_job),
        ("a finished", scenarios.FINISHED, lambda name: harness.copy(harness.reference, name)),
    ):
        for pattern in patterns:
            outcomes: Counter[str] = Counter()
            for kind in scenarios.DAMAGES:
                job = source(f"{title}-{pattern}-{kind}".translate(str.maketrans("/* .", "____")))
                attempt(outcomes, partial(scenarios.damage_run_file, harness, job, pattern, kind, rng))
            yield f"`{pattern}` of {title} run cut, flipped, zeroed, missing", outcomes.total(), outcomes
    outcomes = Counter()
    for kind in scenarios.DAMAGES:
        name = f"entry-{kind}".replace(" ", "_")
        attempt(outcomes, partial(scenarios.damage_cache_entry, harness, name, kind, rng))
    yield "an entry of the feature cache cut, flipped, zeroed, missing", outcomes.total(), outcomes


def disks(harness: Harness, count: int, rng: random.Random) -> Iterator[Row]:
    """Fill the disk, and make a folder read-only."""
    sizes = (8, 16, 40, 100, 200, 300, 400, 600)
    outcomes: Counter[str] = Counter()
    try:
        for size in sizes:
            attempt(outcomes, partial(scenarios.fill_disk, harness, f"full-{size}", size, WITH_IMAGES))
        yield f"disk full (tmpfs of {', '.join(map(str, sizes))} kB), then enlarged", outcomes.total(), outcomes
        outcomes = Counter()
        attempt(outcomes, partial(scenarios.make_folder_read_only, harness, "read-only"))
        yield "folder read-only, then writable", outcomes.total(), outcomes
    except PermissionError:
        print("This process may not mount. The part disks is left out.", file=sys.stderr)


def closed(harness: Harness, count: int, rng: random.Random) -> Iterator[Row]:
    """Kill runs of a closed-form model with two feature sets, and evaluations of their ensemble."""
    closed_form = Harness(harness.base / "closed", harness.processes, model=CLOSED_FORM)
    rows = iter(kills(closed_form, count, rng))
    fault, injected, outcomes = next(rows)
    yield f"closed-form model with two feature sets: {fault}", injected, outcomes
    members = [closed_form.reference, closed_form.job("member", "seed=1")]
    closed_form.finish(members[1])
    begin = time.monotonic()
    process = scenarios.start_ensemble(closed_form, "ensemble", members)
    assert process.wait() == 0, process.output
    seconds = time.monotonic() - begin
    expected = scenarios.Ensemble(seconds, scenarios.ensemble_result(closed_form.base / "ensemble"))
    outcomes = repeat(count, lambda n: scenarios.kill_ensemble(closed_form, f"ensemble{n}", members, expected, rng))
    yield "evaluation of an ensemble: `kill -9` at a random time, same command again", outcomes.total(), outcomes


def sweeps(harness: Harness, count: int, rng: random.Random) -> Iterator[Row]:
    """Kill sweeps over two seeds, half as many as runs."""
    seconds = 2 * harness.duration
    outcomes = repeat(count // 2, lambda n: scenarios.kill_sweep(harness, f"sweep{n}", seconds, rng))
    yield "sweep over two seeds: `kill -9` at a random time, same command again", outcomes.total(), outcomes


def reports(harness: Harness, count: int, rng: random.Random) -> Iterator[Row]:
    """Fill the disk, and make it read-only, while a report is written."""
    sizes = (0, 4, 64, 128, 256)
    outcomes: Counter[str] = Counter()
    try:
        for size in sizes:
            attempt(outcomes, partial(scenarios.report_without_space, harness, f"report-{size}", size))
    except PermissionError:
        print("This process may not mount. The part reports is left out.", file=sys.stderr)
        return
    title = "report on a read-only disk, and on one of 4, 64, 128, 256 kB that becomes full; then enlarged"
    yield title, outcomes.total(), outcomes


def moves(harness: Harness, count: int, rng: random.Random) -> Iterator[Row]:
    """Move run folders and data between two commands."""
    outcomes: Counter[str] = Counter()
    for kind in scenarios.MOVES:
        attempt(outcomes, partial(scenarios.move_run, harness, f"moved-{kind.replace(' ', '-')}", kind))
    yield (
        f"run or data moved before the command is resumed ({', '.join(scenarios.MOVES)})",
        len(scenarios.MOVES),
        outcomes,
    )


VARIANTS: dict[str, tuple[str, ...]] = {
    "flow": (),
    "mixture": ("model=mixture", "model.size=40", "model.rank=6", "scoring.standardize=true"),
    "sets": ("model=patchcore", "model.size=40", *LARGE_SET),
}
"""Overrides of the attacked runs by name: a flow, a standardized closed-form model, and two feature sets."""
KINDS = ("error", "done", "traceback", "hang", "memory", "killed", "escape", "no basis")
"""Columns of the table of attacks; see :class:`Outcome`."""


def attacked_runs(folder: Path) -> list[HostileFolders]:
    """Train and calibrate the runs that are attacked."""
    tree = write_mvtec_tree(folder / "tree", ("bottle", "screw"), train=6, good=3)
    runs = []
    for name, overrides in VARIANTS.items():
        command = [*TINY, "dataset=folder", f"dataset.root={tree}", *overrides]
        command = [part for part in command if not (overrides and part.startswith(("model.coupling", "model.lora")))]
        run_program(command, folder / name)
        assert moleflow_main(["calibrate", str(folder / name), str(tree / "bottle"), "--category", "bottle"]) == 0
        runs.append(HostileFolders(folder / name, tree, folder / "attacks", command))
    return runs


def hostile(folder: Path, seeds: Sequence[int]) -> int:
    """Attack run folders, print the table of outcomes, and return the number of outcomes that are not allowed.

    Args:
        folder: An empty folder.
        seeds: Seeds of the attacks.
    """
    runs = attacked_runs(folder)
    outcomes: dict[str, list[Outcome]] = {name: [] for name in COMMANDS}
    for seed in seeds:
        run = runs[seed % len(runs)]
        for unfinished in (False, True):
            duplicate = run.copy(f"{seed}-{unfinished}", unfinished)
            change = attack(duplicate, seed)
            print(f"{seed}: {change}", file=sys.stderr, flush=True)
            for name in commands_on(change, unfinished):
                outcome = run.outcome(name, duplicate)
                outcomes[name].append(outcome)
                if not outcome.is_allowed:
                    print(f"{seed} {name}: {change}: {outcome.kind}: {outcome.text}", file=sys.stderr, flush=True)
            shutil.rmtree(duplicate.parent)
    print(f"| command | attacks | {' | '.join(KINDS)} | largest additional time in s | largest memory in MB |")
    print(f"|---|{'---|' * (len(KINDS) + 3)}")
    for name, results in outcomes.items():
        counts = Counter(result.kind for result in results)
        columns = " | ".join(str(counts[kind]) for kind in KINDS)
        seconds = max((r.seconds for r in results), default=0.0)
        memory = max((r.memory for r in results), default=0)
        print(f"| `{name}` | {len(results)} | {columns} | {seconds:.1f} | {memory / 1e6:.0f} |")
    return sum(not result.is_allowed for results in outcomes.values() for result in results)


PARTS = {"kills": kills, "stops": stops, "damages": damages, "disks": disks, "moves": moves,
         "closed": closed, "sweeps": sweeps, "reports": reports}  # fmt: skip
"""Parts of the fault injection by the name of the command-line argument."""


def main() -> None:
    """Inject the faults and print the table."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.fault_injection",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--kills", type=int, default=50, help="number of kills at random times")
    parser.add_argument("--attacks", type=int, default=300, help="number of attacks of the part hostile")
    help_text = f"some of {', '.join(PARTS)}, or hostile; default: all but hostile"
    parser.add_argument("parts", nargs="*", metavar="PART", help=help_text)
    parser.add_argument("--seed", type=int, default=0, help="seed of random times and positions; of the first attack")
    args = parser.parse_args()
    start, failures = time.monotonic(), 0
    if args.parts == ["hostile"]:
        with tempfile.TemporaryDirectory() as temporary:
            failures = hostile(Path(temporary), range(args.seed, args.seed + args.attacks))
        print(f"\n{time.monotonic() - start:.0f} s.")
        sys.exit(int(failures > 0))
    with tempfile.TemporaryDirectory() as folder, Processes() as processes:
        harness = Harness(Path(folder), processes)
        print("| fault | injected | same result | named error | runs lost | wrong results |")
        print("|---|---|---|---|---|---|", flush=True)
        for part in args.parts or PARTS:
            for fault, injected, outcomes in PARTS[part](harness, args.kills, random.Random(args.seed)):
                counts = " | ".join(str(outcomes[name]) for name in (SAME, scenarios.NAMED_ERROR, LOST, WRONG))
                print(f"| {fault} | {injected} | {counts} |", flush=True)
                failures += outcomes[LOST] + outcomes[WRONG]
    print(f"\n{time.monotonic() - start:.0f} s, seed {args.seed}.")
    sys.exit(int(failures > 0))


if __name__ == "__main__":
    main()
