"""Calibration of an expert's thresholds by images that were not trained on.

The file ``calibration.json`` of a model folder, or of the run folder of an ensemble, holds the scores of the images for
calibration, by expert. The model's own files are not changed: without the file, the thresholds are those of training.
"""

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from moleflow.runs.content import check_values
from moleflow.utils.errors import UserError
from moleflow.utils.io import read_checksummed_json, write_checksummed_json
from moleflow.utils.text import one_line

CALIBRATION_FILE = "calibration.json"
"""File of a model folder with the calibrations of its experts."""

CRITERIA = ("rate", "f1", "recall")
"""How the score threshold is chosen: by the false-alarm rate, the largest F1 score, or a recall."""

MIN_IMAGES = 2
"""Smallest number of normal images of a calibration."""


@dataclass(frozen=True)
class Calibration:
    """Scores of images for the calibration of one expert.

    Attributes:
        scores: Image scores of the normal images.
        maxima: Largest value of each normal image's anomaly map.
        distances: Router distance of each normal image to the expert.
        experts: Names of the experts of the detector at that time; distances depend on them.
        defect_scores: Image scores of the defective images; empty without.
        threshold: Score threshold that ``criterion`` chose; None: the threshold follows from the false-alarm rate.
        criterion: ``rate``, ``f1``, or ``recall`` of at least ``recall``.
        recall: Share of the defective images above the threshold, for the criterion ``recall``.
    """

    scores: tuple[float, ...]
    maxima: tuple[float, ...]
    distances: tuple[float, ...]
    experts: tuple[str, ...]
    defect_scores: tuple[float, ...] = ()
    threshold: float | None = None
    criterion: str = "rate"
    recall: float | None = None


def read_calibrations(folder: Path, experts: Collection[str] | None = None) -> dict[str, Calibration]:
    """Return the calibrations of a folder by expert; none if it has no such file.

    Args:
        folder: Model folder, or run folder of an ensemble.
        experts: Names of the experts of the detector; calibrations of other experts are left out. None: all.

    Raises:
        UserError: If the file is damaged.
    """
    path = folder / CALIBRATION_FILE
    if not path.is_file():
        return {}
    content = read_checksummed_json(path)
    try:
        check_values(content, path.name)
        calibrations = {str(name): _calibration(entry) for name, entry in content["experts"].items()}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        reason = one_line(str(error) if isinstance(error, ValueError) else repr(error), 200)
        raise UserError(f"{path} is damaged ({reason}). Remove the file, and calibrate again.") from error
    return {name: calibration for name, calibration in calibrations.items() if experts is None or name in experts}


def write_calibrations(folder: Path, calibrations: Mapping[str, Calibration]) -> None:
    """Write the calibrations of a folder, or remove the file if there is none.

    Args:
        folder: Model folder, or run folder of an ensemble.
        calibrations: The calibrations by expert.

    Raises:
        UserError: If the file cannot be written.
    """
    path = folder / CALIBRATION_FILE
    if calibrations:
        write_checksummed_json(path, {"experts": {name: asdict(entry) for name, entry in calibrations.items()}})
    else:
        path.unlink(missing_ok=True)


def _calibration(entry: Mapping[str, Any]) -> Calibration:
    numbers = {
        key: tuple(float(value) for value in entry[key]) for key in ("scores", "maxima", "distances", "defect_scores")
    }
    if len({len(numbers[key]) for key in ("scores", "maxima", "distances")}) != 1:
        raise ValueError("scores, maxima and distances differ in length")
    if len(numbers["scores"]) < MIN_IMAGES or min(numbers["distances"]) < 0:
        raise ValueError(f"scores must be those of at least {MIN_IMAGES} images, and distances at least 0")
    if entry["criterion"] not in CRITERIA:
        raise ValueError(f"criterion={entry['criterion']} must be one of {', '.join(CRITERIA)}")
    threshold, recall = entry["threshold"], entry["recall"]
    return Calibration(
        **numbers,
        experts=tuple(map(str, entry["experts"])),
        threshold=None if threshold is None else float(threshold),
        criterion=str(entry["criterion"]),
        recall=None if recall is None else float(recall),
    )
