"""The command ``moleflow calibrate``."""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from moleflow.detector.calibration import CRITERIA
from moleflow.detector.folders import detector_folder
from moleflow.scoring.thresholds import FALSE_ALARM_RATE, describe_rate
from moleflow.utils.errors import UserError
from moleflow.utils.text import printable

if TYPE_CHECKING:
    from moleflow.detector.types import ExpertRecord


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.description = (
        "Compute the thresholds of a trained model from images that were not trained on. Normal images lie in FOLDER "
        "or in FOLDER/good, defective ones in other subfolders; without --category, in such folders per category, "
        "FOLDER/CATEGORY. The result is stored beside the model, whose own files are not changed; --remove removes it."
    )
    parser.add_argument("model", type=Path, metavar="MODEL", help="run folder or model folder")
    parser.add_argument("folder", nargs="?", type=Path, metavar="FOLDER", help="the images")
    parser.add_argument("--category", metavar="NAME", help="the category, or the expert, of all images in FOLDER")
    parser.add_argument(
        "--criterion",
        default="rate",
        choices=CRITERIA,
        help="rate: the false-alarm rate of predict (default); f1: the largest F1 score; recall: a share of defects",
    )
    parser.add_argument("--recall", type=float, metavar="SHARE", help="share of the defects, for --criterion recall")
    parser.add_argument("--remove", action="store_true", help="remove the calibration, of --category or of all")
    parser.add_argument("--device", default="cpu", help="device to compute on, such as cuda (default: cpu)")


def run(args: argparse.Namespace) -> int:
    """Calibrate the experts, or remove their calibration, and print one line per expert.

    Raises:
        UserError: If the model cannot be loaded, a folder has no images, or images cannot calibrate.
    """
    if args.remove == (args.folder is not None):
        raise UserError("Give either FOLDER or --remove.")
    folder = detector_folder(args.model)
    from moleflow.detector.calibration import write_calibrations
    from moleflow.inference.calibrate import calibrate_expert, calibration_images
    from moleflow.inference.ensemble import load_detector

    detector = load_detector(args.model, args.device)
    category = args.category
    if category is not None and category not in detector.experts:
        category = detector.expert_of(category)
    calibrations = dict(detector.calibrations)
    if args.remove:
        removed = [name for name in list(calibrations) if category in (None, name)]
        for name in removed:
            del calibrations[name]
        write_calibrations(folder, calibrations)
        names = ", ".join(removed)
        print(printable(f"Removed the calibration of {names}." if removed else "There is no calibration to remove."))
        return 0
    if not args.folder.is_dir():
        raise UserError(f"{args.folder} does not exist. Give a folder of images.")
    for name, images in _folders(detector.experts, args.folder, category).items():
        parts = [calibration_images(path) for path in images]
        normal, defective = ([path for part in parts for path in part[i]] for i in (0, 1))
        before = detector.thresholds(name)
        calibrations[name] = calibrate_expert(detector, name, normal, defective, args.criterion, args.recall)
        detector.calibrations = calibrations
        after = detector.thresholds(name).score
        assert after.value is not None
        alarms = sum(score > after.value for score in calibrations[name].scores)
        hits = sum(score > after.value for score in calibrations[name].defect_scores)
        text = "none" if before.score.value is None else f"{before.score.value:.4g}"
        line = f"{name}: threshold {text} -> {after.value:.4g}. Above it: {alarms} of {len(normal)} normal images"
        print(printable(line), end="")
        print(f", {hits} of {len(defective)} defective images." if defective else ".")
        if args.criterion == "rate":
            print(f"  {describe_rate(len(normal), FALSE_ALARM_RATE)}")
            if len(normal) < len(before.normal_scores):
                print(
                    f"  They replace {len(before.normal_scores)} normal images ({before.source}). The threshold of "
                    "fewer images is higher and finds fewer defects: calibrate with as many, or undo it with --remove."
                )
    write_calibrations(folder, calibrations)
    return 0


def _folders(experts: "Mapping[str, ExpertRecord]", folder: Path, expert: str | None) -> dict[str, list[Path]]:
    """Return the folders of images by expert.

    Raises:
        UserError: If no category has a folder.
    """
    if expert is not None:
        return {expert: [folder]}
    found = {
        name: [folder / category for category in record.categories if (folder / category).is_dir()]
        for name, record in experts.items()
    }
    found = {name: folders for name, folders in found.items() if folders}
    if not found:
        raise UserError(
            f"{folder} has no folder of a trained category ({', '.join(experts)}). Name the category of all its images "
            "with --category."
        )
    return found
