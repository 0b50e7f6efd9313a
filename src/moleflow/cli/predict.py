"""The command ``moleflow predict``."""

import argparse
import csv
from collections.abc import Iterator, Sequence
from glob import glob, has_magic
from pathlib import Path
from typing import TYPE_CHECKING, cast

from moleflow.utils.errors import UserError

if TYPE_CHECKING:
    from moleflow.data.transforms import ImageTransform
    from moleflow.detector.predictor import Prediction
    from moleflow.scoring.thresholds import Thresholds

COLUMNS = ("verdict", "score", "threshold", "category", "margin", "distance", "path")
"""Columns of the printed table; the files have ``error`` as well."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("model", metavar="MODEL", help="run folder or model folder")
    parser.add_argument("paths", nargs="+", metavar="PATH", help="images, folders (searched to any depth) or globs")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write the table as CSV")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the table as JSON")
    parser.add_argument("--maps", type=Path, metavar="DIR", help="write each image overlaid with its anomaly map")
    parser.add_argument("--expert", metavar="NAME", help="score all images with this expert instead of the routed one")
    parser.add_argument(
        "--deviations",
        type=float,
        default=3.0,
        metavar="N",
        help="standard deviations between the mean training score and the threshold of a defect (default: 3)",
    )
    parser.add_argument("--device", default="cpu", help="device to compute on, such as cuda (default: cpu)")


def run(args: argparse.Namespace) -> int:
    """Classify the images, print the table and write the files; return 1 if no image was scored.

    Raises:
        UserError: If the model cannot be loaded, there is no image, or a file cannot be written.
    """
    from tqdm import tqdm

    from moleflow.detector.predictor import Predictor
    from moleflow.inference.ensemble import load_detector
    from moleflow.utils.io import to_jsonable, write_json

    paths = find_images(args.paths)
    if not paths:
        raise UserError(f"There is no image in {', '.join(args.paths)}. Name images, folders of images or globs.")
    detector = load_detector(args.model, args.device)
    predictor = Predictor(detector, args.deviations)
    rows = []
    print("  ".join(COLUMNS))
    predictions = predictor.stream(paths, args.expert)
    for prediction in tqdm(predictions, total=len(paths), unit="image", disable=None, leave=False):
        row = prediction.row()
        rows.append(row)
        tqdm.write("  ".join(_cells(row | {"path": prediction.error or row["path"]})))  # an error names the path
        if args.maps and prediction.expert is not None:
            transform = cast("ImageTransform", detector.extractor.transform)
            _write_overlay(prediction, transform, predictor.thresholds[prediction.expert], args.maps)
    if args.json:
        write_json(args.json, to_jsonable(rows))
    if args.csv:
        _write_csv(args.csv, rows)
    return 0 if any(row["verdict"] != "error" for row in rows) else 1


def find_images(paths: Sequence[str]) -> list[Path]:
    """Return the images that files, folders and globs match, each once; paths that do not exist are included.

    Args:
        paths: Files, folders (searched to any depth) or globs.
    """
    from moleflow.data.image_io import SUFFIXES

    images: dict[Path, None] = {}
    for text in paths:
        path = Path(text)
        matches = sorted(map(Path, glob(text, recursive=True))) if has_magic(text) and not path.exists() else [path]
        for match in matches or [path]:
            if match.is_dir():
                files = sorted(file for file in match.rglob("*") if file.suffix.lower() in SUFFIXES)
                images |= dict.fromkeys(file for file in files if not file.name.startswith("."))
            else:
                images[match] = None
    return list(images)


def _cells(row: dict[str, str | float | None]) -> Iterator[str]:
    for column in COLUMNS:
        value = row[column]
        width = 0 if column == "path" else max(len(column), 7)
        text = "-" if value is None else f"{value:.4g}" if isinstance(value, float) else value
        yield text.ljust(width)


def _write_overlay(
    prediction: "Prediction", transform: "ImageTransform", thresholds: "Thresholds", folder: Path
) -> None:
    from moleflow.data.image_io import read_image
    from moleflow.inference.overlay import overlay
    from moleflow.utils.io import atomic_write, shorten_name

    assert prediction.anomaly_map is not None
    high = thresholds.score + (thresholds.score - thresholds.mean_score)
    image = overlay(read_image(prediction.path), prediction.anomaly_map, transform, thresholds.mean_score, high)
    # Four parts of the path: images of several folders often have the same names.
    name = "_".join(part for part in prediction.path.with_suffix("").parts[-4:] if part not in ("/", "..", "."))
    with atomic_write(folder / f"{shorten_name(name)}.png") as temporary:
        image.save(temporary, format="png")


def _write_csv(path: Path, rows: Sequence[dict[str, str | float | None]]) -> None:
    from moleflow.utils.io import atomic_write

    with atomic_write(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
