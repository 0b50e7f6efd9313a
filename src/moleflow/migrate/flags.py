"""Every flag of the first implementation, what became of it, and ``docs/migration.md``, which says so."""

import csv
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

STATES = {
    "translated": "has a key here",
    "alias": "printed in the report, never existed: read as the flag beside it",
    "default": "asked for what was on in any case, here too",
    "dead": "did nothing: nothing is lost",
    "broken": "ended in a crash: nothing is lost",
    "dropped": "did something that no tuned run used: not carried over",
}


@dataclass(frozen=True)
class Flag:
    """A flag of the old command line.

    Attributes:
        flag: Its name, without dashes.
        kind: ``switch``, ``value`` or ``list``.
        default: What the old program took without it.
        state: One of :data:`STATES`.
        key: The config key that takes its value, the override that stands for a switch, or what an alias stands for.
        note: What else there is to know.
    """

    flag: str
    kind: str
    default: str
    state: str
    key: str
    note: str


@cache
def flags() -> dict[str, Flag]:
    """Return all flags by name."""
    with files(__package__).joinpath("flags.csv").open(encoding="utf-8") as file:
        return {row["flag"]: Flag(**row) for row in csv.DictReader(file)}


def page() -> str:
    """Return the text of ``docs/migration.md``."""
    lines = [
        "# From the first implementation's command line",
        "",
        "An old command becomes a new one by itself, with notes on what it cannot say:",
        "",
        "    python -m moleflow.migrate -- python run_moleflow.py --use_tail_aware_loss --tail_weight 0.8",
        "",
        "It starts from the old program's defaults, which are not the ones here: 8 coupling layers, learning rate",
        "2e-4, log-det 1e-5, scale kernel 3, the summed loss without a tail, and the 99th percentile as image score.",
        "The router is the pooled one; the recorded rule is `router=own`. Runs that the report names have their own",
        "files: `python -m moleflow.catalogue` lists them.",
        "",
        "This page is written by `python -m moleflow.migrate --page`.",
    ]
    for state, meaning in STATES.items():
        lines += [
            "",
            f"## {state.capitalize()}: {meaning}",
            "",
            "| flag | old default | here | note |",
            "|---|---|---|---|",
        ]
        for flag in flags().values():
            if flag.state == state:
                key = f"`--{flag.key}`" if state == "alias" else f"`{flag.key}`" if flag.key else ""
                lines.append(f"| `--{flag.flag}` | {flag.default} | {key} | {flag.note} |")
    return "\n".join(lines) + "\n"
