"""The public data sets: their size, what is to be reached on them, and which of them recorded numbers are of."""

from collections.abc import Mapping
from typing import Any

from moleflow.catalogue.records import recorded
from moleflow.report.runs import Run

SIZES = {"mvtec": 15, "visa": 12, "mpdd": 6}
"""Categories of the whole data set."""
AIMS = {"mvtec": 0.60, "visa": 0.40}
"""Pixel AP to reach on the whole data set."""


def whole(run: Run) -> str:
    """Return the name of the public data set whose categories a run was tested on, all of them; empty for another."""
    return run.dataset_name if SIZES.get(run.dataset_name) == len(run.categories) else ""


def other_pictures(run: Run, claims: Mapping[str, Any]) -> str:
    """Return how what a run was measured on differs from what recorded numbers were; empty if it does not.

    Args:
        run: The run.
        claims: Its configuration's ``reported``. Where it names no recorded run the numbers are the user's own, of
            the same pictures.
    """
    dataset = next((row["dataset"] for row in recorded() if row["recorded_name"] == claims.get("run")), "")
    if not dataset:
        return ""
    if whole(run) != dataset:
        return "another data set"
    return "other masks" if run.native_masks else ""  # all were recorded on the masks as the model sees them
