"""The command ``moleflow predict``."""

import argparse
import csv
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from glob import glob, has_magic
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moleflow.detector.folders import detector_folder
from moleflow.scoring.thresholds import FALSE_ALARM_RATE, UNKNOWN_RATE
from moleflow.utils.environment import escape_undecodable
from moleflow.utils.errors import UserError
from moleflow.utils.text import printable, spreadsheet_text

if TYPE_CHECKING:
    from moleflow.detector.predictor import Prediction, Predictor
    from moleflow.detector.types import ExpertRecord

MAP_FORMATS = ("png", "npy", "tiff")
"""Formats of the files of ``--maps``."""
Row = dict[str, str | float | None]
"""One row of the table by column, as :meth:`~moleflow.detector.predictor.Prediction.row` returns it."""
COLUMNS = ("verdict", "score", "threshold", "normalized_score", "category", "margin", "distance", "path")
"""Columns of the printed table; the files have ``error`` as well."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("model", metavar="MODEL", help="run folder or model folder")
    parser.add_argument("paths", nargs="+", metavar="PATH", help="images, folders (searched to any depth) or globs")
    parser.add_argument(
        "--csv",
        type=Path,
        metavar="FILE",
        help="write the table as CSV, row by row; a text that a spreadsheet would execute begins with an apostrophe",
    )
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="write the table as JSON, with regions and thresholds"
    )
    parser.add_argument("--maps", type=Path, metavar="DIR", help="write each image overlaid with its anomaly map")
    parser.add_argument(
        "--map-format",
        nargs="+",
        default=["png"],
        choices=MAP_FORMATS,
        help="files of --maps: png, the overlay (default); npy or tiff, the map itself at the size of the image",
    )
    parser.add_argument("--expert", metavar="NAME", help="score all images with this expert instead of the routed one")
    parser.add_argument(
        "--false-alarm-rate",
        type=float,
        default=FALSE_ALARM_RATE,
        metavar="RATE",
        help=f"share of normal images that may be classified as defective (default: {FALSE_ALARM_RATE})",
    )
    parser.add_argument(
        "--unknown-rate",
        type=float,
        default=UNKNOWN_RATE,
        metavar="RATE",
        help=f"share of images of the trained categories that may be classified as unknown (default: {UNKNOWN_RATE})",
    )
    parser.add_argument(
        "--threshold",
        nargs="+",
        default=[],
        metavar="VALUE",
        help="score threshold of all experts, or NAME=VALUE of one, in place of that of the rate",
    )
    parser.add_argument(
        "--wandb", action="store_true", help="log the table to W&B, linked to the model of a run with logger=wandb"
    )
    parser.add_argument("--device", default="cpu", help="device to compute on, such as cuda (default: cpu)")


def run(args: argparse.Namespace) -> int:
    """Classify the images, print the table and write the files; return 1 if no image was scored.

    Rows are printed and written to the CSV file as the images are scored; the JSON file is written at the end.

    Raises:
        UserError: If the model cannot be loaded, there is no image, or a file cannot be written.
    """
    detector_folder(Path(args.model))  # before torch is loaded, so that a wrong path is an error at once
    from tqdm import tqdm

    from moleflow.detector.predictor import Predictor, comparison_notes, threshold_notes
    from moleflow.inference.ensemble import load_detector

    paths = find_images(args.paths)
    if not paths:
        raise UserError(f"There is no image in {', '.join(args.paths)}. Name images, folders of images or globs.")
    log_rows = _wandb_log(Path(args.model)) if args.wandb else None
    detector = load_detector(args.model, args.device)
    manual = _manual_thresholds(args.threshold, list(detector.experts))
    predictor = Predictor(detector, args.false_alarm_rate, args.unknown_rate, manual)
    maps = MapWriter(detector.experts, predictor, args.maps, args.map_format, with_regions=args.json is not None)
    rows: list[dict[str, Any]] = []
    table: list[Row] = []
    print("  ".join(COLUMNS))
    predictions = predictor.stream(paths, args.expert)
    with _csv_writer(args.csv) as write_row:
        for prediction in tqdm(predictions, total=len(paths), unit="image", disable=None, leave=False):
            row = _escaped(prediction.row())
            # Written before it is printed, so that a kill loses no printed row.
            write_row({key: spreadsheet_text(value) if isinstance(value, str) else value for key, value in row.items()})
            tqdm.write("  ".join(_cells(row | {"path": row["error"] or row["path"]})))  # an error names the path
            table.append(row)
            rows.append(row | maps.write(prediction))
    command = f"moleflow calibrate {args.model} FOLDER"
    used = {name: thresholds for name, thresholds in predictor.thresholds.items() if name in predictor.comparisons()}
    for note in [*threshold_notes(used, command), *comparison_notes(predictor.comparisons(), command)]:
        print(printable(note), file=sys.stderr)
    if args.json:
        _write_json(args.json, rows, predictor)
    if log_rows is not None:
        log_rows(table)
    return 0 if any(row["verdict"] != "error" for row in rows) else 1


def _wandb_log(run_folder: Path) -> Callable[[Sequence[Row]], None]:
    """Return a function that logs a table of predictions to W&B.

    Raises:
        UserError: If the folder is not that of a run with ``logger=wandb``.
    """
    from moleflow.training.experiment_log.wandb import log_predictions, training_log

    settings = training_log(run_folder)
    return lambda rows: log_predictions(run_folder, settings, rows)


def find_images(paths: Sequence[str]) -> list[Path]:
    """Return the images that files, folders and globs match, each once; paths that do not exist are included.

    Args:
        paths: Files, folders (searched to any depth, without folders of masks) or globs.
    """
    from moleflow.detector.inputs import files_in

    images: dict[Path, None] = {}
    for text in paths:
        path = Path(text)
        matches = sorted(map(Path, glob(text, recursive=True))) if has_magic(text) and not path.exists() else [path]
        for match in matches or [path]:
            if match.is_dir():
                images |= dict.fromkeys(files_in(match))
            else:
                images[match] = None
    return list(images)


def _cells(row: Row) -> Iterator[str]:
    for column in COLUMNS:
        value = row[column]
        width = 0 if column == "path" else max(len(column), 7)
        text = "-" if value is None else f"{value:.4g}" if isinstance(value, float) else value
        yield printable(text).ljust(width)


def _manual_thresholds(values: Sequence[str], experts: Sequence[str]) -> dict[str, float]:
    """Return score thresholds by expert from ``VALUE`` and ``NAME=VALUE``; the latter have priority.

    Raises:
        UserError: If a value is no number.
    """
    thresholds: dict[str, float] = {}
    for text in sorted(values, key=lambda text: "=" in text):
        name, separator, value = text.rpartition("=")
        try:
            number = float(value)
        except ValueError:
            raise UserError(f"--threshold {text}: {value!r} is no number. Give VALUE or NAME=VALUE.") from None
        thresholds |= {name: number} if separator else dict.fromkeys(experts, number)
    return thresholds


def _write_json(path: Path, rows: Sequence[dict[str, Any]], predictor: "Predictor") -> None:
    from moleflow.detector.predictor import comparison_rows, threshold_rows
    from moleflow.utils.io import to_jsonable, write_json

    comparisons = comparison_rows(predictor.comparisons())
    experts = {
        name: {**row, "comparison": comparisons.get(name)} for name, row in threshold_rows(predictor.thresholds).items()
    }
    write_json(path, to_jsonable({"predictions": rows, "experts": experts}))


class MapWriter:
    """Writes the anomaly maps of predictions, and computes their regions.

    Args:
        experts: The records of the experts.
        predictor: The predictor, for the pixel thresholds.
        folder: Folder of the files; None for none.
        formats: Some of `MAP_FORMATS`.
        with_regions: Whether :meth:`write` returns the regions.
    """

    def __init__(
        self,
        experts: "Mapping[str, ExpertRecord]",
        predictor: "Predictor",
        folder: Path | None,
        formats: Sequence[str],
        with_regions: bool,
    ) -> None:
        self.experts = experts
        self.predictor = predictor
        self.folder = folder
        self.formats = formats
        self.with_regions = with_regions
        self._names: set[str] = set()

    def write(self, prediction: "Prediction") -> dict[str, Any]:
        """Write the files of one prediction.

        Returns:
            Regions and mask for the JSON file; empty without a map or a pixel threshold.

        Raises:
            UserError: If a file cannot be written.
        """
        import numpy as np
        from PIL import Image

        from moleflow.data.image_io import image_size, read_image
        from moleflow.inference.overlay import map_on_image, overlay, regions, run_lengths
        from moleflow.utils.io import atomic_write

        if prediction.expert is None or prediction.anomaly_map is None or prediction.path is None:
            return {}
        if self.folder is None and not self.with_regions:
            return {}
        transform = self.experts[prediction.expert].transform
        size = image_size(prediction.path)
        normalized_map = self.predictor.normalized_map(prediction)
        normalized = None if normalized_map is None else map_on_image(normalized_map, transform, size)
        if self.folder is not None:
            name = self._unique_name(prediction.path)
            for kind in self.formats:
                with atomic_write(self.folder / f"{name}.{kind}") as temporary:
                    if kind == "png":
                        image = read_image(prediction.path, transform.input_range)
                        blank = np.zeros(size[::-1], np.float32)
                        overlay(image, blank if normalized is None else normalized).save(temporary, format="png")
                        continue
                    values = map_on_image(prediction.anomaly_map, transform, size)
                    if kind == "tiff":
                        Image.fromarray(values).save(temporary, format="tiff")
                    else:
                        with temporary.open("wb") as file:
                            np.save(file, values)
        if normalized is None or not self.with_regions:
            return {}
        return {
            "regions": [vars(region) for region in regions(normalized)],
            "mask": {"size": list(normalized.shape), "counts": run_lengths(normalized > 0.5)},
        }

    def _unique_name(self, path: Path) -> str:
        from moleflow.utils.io import shorten_name

        # Four parts of the path: images of several folders often have the same names.
        parts = [part for part in path.with_suffix("").parts[-4:] if part not in (path.anchor, "..", ".")]
        name = base = shorten_name("_".join(parts))
        number = 1
        while name.casefold() in self._names:
            number += 1
            name = f"{base}-{number}"
        self._names.add(name.casefold())
        return name


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
