"""The command ``moleflow catalogue``."""

import argparse
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

from moleflow.utils.errors import UserError

if TYPE_CHECKING:
    from moleflow.catalogue.entries import Entry
    from moleflow.runs.reader import Run

HEADER = (
    "name", "group", "recorded AUROC", "recorded AP", "image AUROC", "pixel AP", "runs", "verdict", "description",
)  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.description = (
        "List all experiments and ablations with their recorded or proposed image AUROC and pixel AP and, if a folder "
        "of runs is given, the means of the runs with the same configuration."
    )
    parser.add_argument("runs", nargs="?", type=Path, metavar="RUNS_DIR", help="folder that holds runs, at any depth")
    parser.add_argument("--group", help="list this group only, such as report, mole6_dia2 or visa")


def run(args: argparse.Namespace) -> int:
    """Print the table of entries.

    Raises:
        UserError: If the folder of runs does not exist, or no entry has the group.
    """
    print(table(args.runs, args.group))
    return 0


def table(runs_dir: Path | None = None, group: str | None = None) -> str:
    """Return the catalogue as text; without ``group`` followed by the runs that match no entry.

    Args:
        runs_dir: Folder that holds run folders at any depth, or None.
        group: List the entries of this group only.

    Raises:
        UserError: If the folder of runs does not exist, or no entry has the group.
    """
    from moleflow.catalogue.comparison import TOLERANCE_RULE
    from moleflow.catalogue.entries import entries, match_runs, unmatched_runs
    from moleflow.experiment.compose import find_conf
    from moleflow.runs.reader import read_runs
    from moleflow.utils.tables import format_table

    conf = find_conf()
    catalogue = entries(conf)
    shown = [entry for entry in catalogue if group in (None, entry.group)]
    if not shown:
        groups = sorted({entry.group for entry in catalogue} - {""})
        raise UserError(f"--group={group} has no entries. Choose one of: {', '.join(groups)}.")
    runs, faults = ([], []) if runs_dir is None else read_runs([runs_dir])
    matches = match_runs(conf, shown, runs) if runs else {}
    verdicts = Counter[str]()
    rows: list[tuple[str, ...]] = [HEADER]
    for entry in shown:
        matching = matches.get(entry.key, ())
        verdict = _verdict(entry, matching)
        verdicts[verdict] += 1
        rows.append((
            entry.name if entry.kind == "experiment" else f"ablation {entry.name}",
            entry.group or "-",
            _record(entry, "image_auroc"),
            _record(entry, "pixel_ap"),
            *_measured(matching),
            verdict if runs_dir is not None or verdict == "not compared" else "",
            f"{entry.description} {entry.note}".strip(),
        ))  # fmt: skip
    if group is None:
        for others in unmatched_runs(runs, matches):
            rows.append((others[0].label, "-", "", "", *_measured(others), "no entry", ""))
    lines = format_table(rows)
    if runs_dir is not None:
        lines += ["", ", ".join(f"{count} {verdict}" for verdict, count in sorted(verdicts.items()))]
    if faults:
        lines += [f"Folders without results: {len(faults)}. `moleflow report {runs_dir}` lists them with the reasons."]
    lines += [
        "",
        f"Verdicts compare pixel AP with the record. {TOLERANCE_RULE}",
        "Ablations are recorded on the default configuration, with +ablation=NAME alone.",
    ]
    return "\n".join(lines)


def _verdict(entry: "Entry", runs: Sequence["Run"]) -> str:
    from moleflow.catalogue.comparison import compare_with_record
    from moleflow.runs.reader import values_by_seed

    if not entry.compare or "pixel_ap" not in entry.record:
        return "not compared"
    values = values_by_seed(runs, "pixel_ap").values()
    return compare_with_record(values, entry.record["pixel_ap"], group=entry.group).verdict if values else "not run"


def _measured(runs: Sequence["Run"]) -> tuple[str, str, str]:
    """Return mean image AUROC, mean pixel AP and number of the runs, as text."""
    from moleflow.runs.reader import values_by_seed

    values = [values_by_seed(runs, metric).values() for metric in ("image_auroc", "pixel_ap")]
    auroc, ap = (f"{fmean(column):.4f}" if column else "" for column in values)
    return auroc, ap, str(len(runs)) if runs else ""


def _record(entry: "Entry", metric: str) -> str:
    if metric not in entry.record:
        return ""
    low, high = entry.record[metric]
    return f"{low:.4f}" if low == high else f"{low:g}-{high:g}"
