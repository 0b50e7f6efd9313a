"""Public data sets: their number of categories, targets, and whether recorded values refer to a run's images."""

from moleflow.catalogue.records import recorded_run
from moleflow.runs.reader import Run

DATASET_SIZES = {
    "mvtec": 15, "visa": 12, "mpdd": 6, "mvtecloco": 5, "mvtecad2": 8, "btad": 3, "realiad": 30, "kolektorsdd2": 1
}  # fmt: skip
"""Number of categories of the whole data set."""
TARGETS = {"mvtec": 0.60, "visa": 0.40}
"""Target pixel AP on the whole data set."""


def full_dataset_name(run: Run) -> str:
    """Return the name of the public data set if the run was tested on all of its categories, else an empty string."""
    return run.dataset_name if DATASET_SIZES.get(run.dataset_name) == len(run.categories) else ""


def image_mismatch(run: Run, recorded_name: str) -> str:
    """Return how the images of a run differ from those of a recorded run; empty if they are equal.

    Args:
        run: The run.
        recorded_name: Name of the recorded run. For any other name the recorded values are the user's own and refer to
            the run's images.
    """
    row = recorded_run(recorded_name)
    if row is None:
        return ""
    if full_dataset_name(run) != row["dataset"]:
        return "other data set"
    return "other masks" if run.full_masks else ""  # all recorded runs used cropped masks
