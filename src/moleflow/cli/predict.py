"""The command ``moleflow predict``."""

import argparse
import csv
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from glob import glob, has_magic
from pathlib import Path
from typing import TYPE_CHECKING

from moleflow.utils.environment import escape_undecodable
from moleflow.utils.errors import UserError

if TYPE_CHECKING:
    from moleflow.data.transforms import ImageTransform
    from moleflow.detector.predictor import Prediction
    from moleflow.scoring.thresholds import Thresholds

Row = dict[str, str | float | None]
"""One row of the table by column, as :meth:`~moleflow.detector.predictor.Prediction.row` returns it."""
COLUMNS = ("verdict", "score", "threshold", "category", "margin", "distance", "path")
"""Columns of the printed table; the files have ``error`` as well."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("model", metavar="MODEL", help="run folder or model folder")
    parser.add_argument("paths", nargs="+", metavar="PATH", help="images, folders (searched to any depth) or globs")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write the table as CSV, row by row")
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

    Rows are printed and written to the CSV file as the images are scored; the JSON file is written at the end.

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
    with _csv_writer(args.csv) as write_row:
        for prediction in tqdm(predictions, total=len(paths), unit="image", disable=None, leave=False):
            row = _escaped(prediction.row())
            rows.append(row)
            write_row(row)  # before it is printed, so that a kill loses no printed row
            tqdm.write("  ".join(_cells(row | {"path": row["error"] or row["path"]})))  # an error names the path
            if args.maps and prediction.expert is not None:
                transform = detector.experts[prediction.expert].transform
                _write_overlay(prediction, transform, predictor.thresholds[prediction.expert], args.maps)
    if args.json:
        write_json(args.json, to_jsonable(rows))
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


def _cells(row: Row) -> Iterator[str]:
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
    pixels = read_image(prediction.path, transform.input_range)
    image = overlay(pixels, prediction.anomaly_map, transform, thresholds.mean_score, high)
    # Four parts of the path: images of several folders often have the same names.
    name = "_".join(part for part in prediction.path.with_suffix("").parts[-4:] if part not in ("/", "..", "."))
    with atomic_write(folder / f"{shorten_name(name)}.png") as temporary:
        image.save(temporary, format="png")


def _escaped(row: Row) -> Row:
    """Return a row in which bytes of file names that are not UTF-8 are escaped."""
    return {key: escape_undecodable(value) if isinstance(value, str) else value for key, value in row.items()}


@contextmanager
def _csv_writer(path: Path | None) -> Iterator[Callable[[Row], None]]:
    """Yield a function that appends a row to a new CSV file at once; without a path, one that does nothing.

    Raises:
        UserError: If the file cannot be written; the function, as well.
    """
    from moleflow.utils.io import cannot_write

    if path is None:
        yield lambda row: None
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("w", newline="", encoding="utf-8")
    except OSError as error:
        raise cannot_write(path, error) from error
    with file:
        writer = csv.writer(file)

        def write_row(row: Row) -> None:
            try:
                if not file.tell():
                    writer.writerow(row)
                writer.writerow(row.values())
                file.flush()
            except OSError as error:
                raise cannot_write(path, error) from error

        yield write_row
