"""The catalogue as a text table: recorded and proposed metrics beside those of runs."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from moleflow.catalogue.comparison import TOLERANCE_RULE, compare_with_record
from moleflow.catalogue.entries import Entry, entries, match_runs, unmatched_runs
from moleflow.experiment.conf import conf_folders
from moleflow.runs.reader import Fault, Run, read_runs, values_by_seed
from moleflow.utils.errors import UserError
from moleflow.utils.tables import format_table
from moleflow.utils.text import printable

COLUMNS = (
    "name", "group", "recorded AUROC", "recorded AP", "image AUROC", "pixel AP", "seeds", "verdict", "description",
)  # fmt: skip


def catalogue_table(runs_folder: Path | None = None, group: str | None = None) -> str:
    """Return the catalogue as text.

    With a runs folder the table has the measured metrics of each entry, of runs without an entry (unless a group is
    selected), and below the table the folders that could not be read.

    Args:
        runs_folder: Folder with run folders, or None.
        group: Show only the entries of this group.

    Raises:
        UserError: If the runs folder does not exist, or no entry has the group.
    """
    folders = conf_folders()
    catalogue = [entry for folder in folders for entry in entries(folder)]
    selected = [entry for entry in catalogue if group in (None, entry.group)]
    if not selected:
        groups = ", ".join(sorted({entry.group for entry in catalogue} - {""}))
        raise UserError(f"--group={group} has no entries. Choose one of: {groups}.")
    runs, faults = ([], []) if runs_folder is None else read_runs([runs_folder])
    matches = match_runs(folders[0], selected, runs) if runs else {}
    rows: list[tuple[str, ...]] = [COLUMNS]
    verdicts = Counter[str]()
    for entry in selected:
        matching = matches.get(entry.key, [])
        verdict = entry_verdict(entry, matching)
        verdicts[verdict] += 1
        rows.append((
            entry.name if entry.kind == "experiment" else f"ablation {entry.name}", entry.group or "-",
            _record_text(entry, "image_auroc"), _record_text(entry, "pixel_ap"), *_measured_columns(matching),
            verdict if runs_folder is not None or verdict == "not compared" else "",
            f"{entry.description} {entry.note}".strip(),
        ))  # fmt: skip
    if group is None:
        rows += [(same[0].label, "-", "", "", *_measured_columns(same), "no entry", "")
                 for same in unmatched_runs(runs, matches)]  # fmt: skip
    lines = format_table(rows)
    if runs_folder is not None:
        lines += ["", ", ".join(f"{count} {verdict}" for verdict, count in sorted(verdicts.items()))]
        lines += ["", *_fault_lines(faults)] if faults else []
    lines += [
        "",
        f"Recorded are image AUROC and pixel AP, or the range that was proposed. Verdicts compare pixel AP. "
        f"{TOLERANCE_RULE}",
        "Ablations were recorded on mole6_dia2: +experiment=mole6_dia2 +ablation=NAME.",
    ]
    return printable("\n".join(lines))


def entry_verdict(entry: Entry, runs: Sequence[Run]) -> str:
    """Return how the measured pixel AP of an entry compares with its record.

    Args:
        entry: The entry.
        runs: The runs of its configuration.

    Returns:
        ``match``, ``better`` or ``worse``; ``not compared`` if the entry has no comparable record; ``not run``.
    """
    if not entry.compare or "pixel_ap" not in entry.record:
        return "not compared"
    values = values_by_seed(runs, "pixel_ap")
    if not values:
        return "not run"
    return compare_with_record(values.values(), entry.record["pixel_ap"], group=entry.group).verdict


def _measured_columns(runs: Sequence[Run]) -> tuple[str, str, str]:
    """Return mean image AUROC, mean pixel AP and number of seeds; empty texts for missing values."""
    image, pixel = (values_by_seed(runs, metric).values() for metric in ("image_auroc", "pixel_ap"))
    seeds = len({run.seed for run in runs})
    return (f"{fmean(image):.4f}" if image else "", f"{fmean(pixel):.4f}" if pixel else "", str(seeds or ""))


def _record_text(entry: Entry, metric: str) -> str:
    if metric not in entry.record:
        return ""
    low, high = entry.record[metric]
    return f"{low:.4f}" if low == high else f"{low:g}-{high:g}"


def _fault_lines(faults: Sequence[Fault]) -> list[str]:
    return ["Run folders without usable results:", *(f"  {f.folder} ({f.kind}): {f.reason}" for f in faults)]
