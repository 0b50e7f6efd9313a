"""Flags of the first implementation, their counterparts, and the text of ``docs/migration.md``."""

import csv
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

STATES = {
    "translated": "Flags with a counterpart",
    "alias": "Flags of the report that never existed, read as the flag beside them",
    "default": "Flags that request the default, left out",
    "dead": "Flags that had no effect, left out",
    "broken": "Flags that crashed, left out",
    "dropped": "Flags that had an effect but have no counterpart; no tuned run used them",
}
"""What became of a flag, with the heading of its section in ``docs/migration.md``."""


@dataclass(frozen=True)
class Flag:
    """A flag of the old command line.

    Attributes:
        flag: Name without dashes.
        kind: ``switch``, ``value`` or ``list``.
        default: Value of the old program without the flag.
        state: One of :data:`STATES`.
        key: The config key for its value, the override that replaces a switch, or the flag that an alias is read as.
        note: Further information for the user.
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
        "# Migration from the first implementation",
        "",
        "`moleflow migrate` prints the present command for an old one, and notes on flags without a counterpart:",
        "",
        "    moleflow migrate -- python run_moleflow.py --use_tail_aware_loss --tail_weight 0.8",
        "",
        "The translation starts from the old program's defaults, which differ from the present ones: 8 coupling",
        "layers, learning rate 2e-4, `loss.lambda_logdet=1e-5`, `model.scale_context_kernel=3`, the summed loss",
        "without a tail, and the 99th percentile as image score. `view=paper` is the old program's crop of the images.",
        "The router has the present default, one covariance for all experts; the recorded rule is",
        "`router=per_expert_covariance`. `moleflow catalogue` lists the runs that the report names, which have",
        "configuration files of their own.",
        "",
        "This page is printed by `moleflow migrate --page`.",
    ]
    for state, heading in STATES.items():
        lines += [
            "",
            f"## {heading}",
            "",
            "| flag | old default | counterpart | note |",
            "|---|---|---|---|",
        ]
        for flag in flags().values():
            if flag.state == state:
                key = f"`--{flag.key}`" if state == "alias" else f"`{flag.key}`" if flag.key else ""
                lines.append(f"| `--{flag.flag}` | {flag.default} | {key} | {flag.note} |")
    return "\n".join(lines) + "\n"
