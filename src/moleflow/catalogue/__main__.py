"""Prints the catalogue: ``python -m moleflow.catalogue [RUNS_DIR]``."""

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from moleflow.catalogue.entries import Entry, entries
from moleflow.catalogue.measured import Run, finished_runs, means, measured, others, verdict
from moleflow.catalogue.records import OTHER_TOLERANCE, TOLERANCE
from moleflow.composing import find_conf
from moleflow.errors import UserError, told
from moleflow.training.tables import aligned

HEADER = ("name", "group", "image AUROC", "pixel AP", "here", "here", "runs", "verdict", "description")


@told
def main(arguments: list[str] | None = None) -> int:
    """Print the table of all experiments and ablations; return the exit status.

    Args:
        arguments: The command line; by default that of the process.
    """
    parser = argparse.ArgumentParser(prog="python -m moleflow.catalogue", description=__doc__)
    parser.add_argument("runs", nargs="?", type=Path, help="folder with run folders: adds what was measured here")
    parser.add_argument("--group", help="only this group, such as report, mole6_dia2 or visa")
    options = parser.parse_args(arguments)
    print(table(options.runs, options.group))
    return 0


def table(runs: Path | None = None, group: str | None = None) -> str:
    """Return the catalogue as text; without a group also what was run of configurations that no entry has.

    Args:
        runs: Folder with run folders, or None.
        group: Keep the entries of this group alone.

    Raises:
        UserError: If a folder is missing, or no entry is of the group.
    """
    conf = find_conf()
    shown = [entry for entry in entries(conf) if group in (None, entry.group)]
    if not shown:
        raise UserError(
            f"No entry is of the group {group!r}. Groups: {', '.join(sorted({e.group for e in entries(conf)} - {''}))}."
        )
    made = [] if runs is None else finished_runs(runs)
    found = measured(conf, shown, made) if made else {}
    rows: list[tuple[str, ...]] = [HEADER]
    verdicts = Counter[str]()
    for entry in shown:
        own = found.get((entry.kind, entry.name))
        values = None if own is None else means(own)
        said = verdict(entry, values)
        verdicts[said] += 1
        rows.append((
            entry.name if entry.kind == "experiment" else f"ablation {entry.name}", entry.group or "-",
            _target(entry, "image_auroc"), _target(entry, "pixel_ap"), *_here(own),
            said if runs is not None or said == "not compared" else "", _description(entry),
        ))  # fmt: skip
    if group is None:
        rows += [(own[0].label, "-", "", "", *_here(own), "no entry", "") for own in others(made, found)]
    lines = aligned(rows)
    if runs is not None:
        lines += ["", ", ".join(f"{count} {said}" for said, count in sorted(verdicts.items()))]
    lines += [
        "",
        f"Verdicts are on pixel AP, within two standard deviations of the seed: {TOLERANCE['report']} for the group "
        f"report, {TOLERANCE['mole6_dia2']} for mole6_dia2, and {OTHER_TOLERANCE} where it was never measured.",
        "Ablations: recorded on the default configuration, +ablation=NAME alone.",
    ]
    return "\n".join(lines)


def _here(runs: Sequence[Run] | None) -> tuple[str, str, str]:
    """Return image AUROC, pixel AP and number of runs made here, each empty without one."""
    values = means(runs) if runs else {}
    image, pixel = (f"{values[name]:.4f}" if name in values else "" for name in ("image_auroc", "pixel_ap"))
    return image, pixel, str(len(runs)) if runs else ""


def _target(entry: Entry, metric: str) -> str:
    if metric not in entry.target:
        return ""
    low, high = entry.target[metric]
    return f"{low:.4f}" if low == high else f"{low:g}-{high:g}"


def _description(entry: Entry) -> str:
    return f"{entry.description} {entry.note}".strip()


if __name__ == "__main__":
    sys.exit(main())
