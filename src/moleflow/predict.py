"""Score pictures. ``python -m moleflow.predict MODEL PATH...``."""

import argparse
import csv
import sys
from collections.abc import Iterator, Sequence
from glob import glob, has_magic
from pathlib import Path
from typing import TYPE_CHECKING, cast

from moleflow.errors import UserError, told

if TYPE_CHECKING:
    from moleflow.data import PictureTransform
    from moleflow.inference.predict import Prediction, Predictor

COLUMNS = ("verdict", "score", "threshold", "category", "margin", "distance", "path")


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    made = argparse.ArgumentParser(
        prog="python -m moleflow.predict",
        description="Say of pictures whether they are normal, have a defect, or are of an unknown category.",
    )
    made.add_argument("model", metavar="MODEL", help="a run folder or a model folder")
    made.add_argument("paths", nargs="+", metavar="PATH", help="pictures, folders (searched to any depth) or globs")
    made.add_argument("--csv", type=Path, metavar="FILE", help="write the table as CSV")
    made.add_argument("--json", type=Path, metavar="FILE", help="write the table as JSON")
    made.add_argument("--maps", type=Path, metavar="DIR", help="write each picture with its anomaly map laid over it")
    made.add_argument("--expert", metavar="NAME", help="score all with this expert instead of the router's choice")
    made.add_argument(
        "--deviations",
        type=float,
        default=3.0,
        metavar="N",
        help="a defect begins N standard deviations above the mean of the training scores (default: 3)",
    )
    made.add_argument("--device", default="cpu", help="where to compute (default: cpu)")
    return made


def pictures(paths: Sequence[str]) -> list[Path]:
    """Return the pictures that files, folders and globs name, each once; what does not exist stays in the list."""
    from moleflow.data.read import SUFFIXES

    found: dict[Path, None] = {}
    for text in paths:
        path = Path(text)
        matches = sorted(map(Path, glob(text, recursive=True))) if has_magic(text) and not path.exists() else [path]
        for match in matches or [path]:
            if match.is_dir():
                files = sorted(file for file in match.rglob("*") if file.suffix.lower() in SUFFIXES)
                found |= dict.fromkeys(file for file in files if not file.name.startswith("."))
            else:
                found[match] = None
    return list(found)


@told
def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table and return the exit status: 1 if nothing could be scored."""
    return 0 if score(parser().parse_args(arguments)) else 1


def score(given: argparse.Namespace) -> int:
    """Score what the command line names; return the number of pictures that got a verdict.

    Raises:
        UserError: If the model cannot be loaded, no picture is named, or a file cannot be written.
    """
    from tqdm import tqdm

    from moleflow.files import plain, write_json
    from moleflow.inference.ensemble import load_model
    from moleflow.inference.predict import Predictor

    found = pictures(given.paths)
    if not found:
        raise UserError(f"There is no picture in {', '.join(given.paths)}.")
    predictor = Predictor(load_model(given.model, given.device), given.deviations)
    rows = []
    print("  ".join(COLUMNS))
    for prediction in tqdm(
        predictor.stream(found, given.expert), total=len(found), unit="picture", disable=None, leave=False
    ):
        row = prediction.row()
        rows.append(row)
        tqdm.write("  ".join(_texts(row | {"path": prediction.error or row["path"]})))  # an error names the path
        if given.maps and prediction.anomaly_map is not None:
            _draw(predictor, prediction, given.maps)
    if given.json:
        write_json(given.json, plain(rows))
    if given.csv:
        _write_csv(given.csv, rows)
    return sum(row["verdict"] != "error" for row in rows)


def _texts(row: dict[str, str | float | None]) -> Iterator[str]:
    for column in COLUMNS:
        value = row[column]
        width = 0 if column == "path" else max(len(column), 7)
        text = "-" if value is None else f"{value:.4g}" if isinstance(value, float) else value
        yield text.ljust(width)


def _draw(predictor: "Predictor", prediction: "Prediction", folder: Path) -> None:
    from moleflow.data.read import read_picture
    from moleflow.files import replacing
    from moleflow.inference.overlay import overlay

    assert prediction.expert is not None
    assert prediction.anomaly_map is not None
    limit = predictor.limits[prediction.expert]
    high = limit.score + (limit.score - limit.usual)
    drawn = overlay(
        read_picture(prediction.path),
        prediction.anomaly_map,
        cast("PictureTransform", predictor.model.extractor.transform),
        limit.usual,
        high,
    )
    # The whole path in the name: pictures of several folders often share theirs.
    name = "_".join(part for part in prediction.path.with_suffix("").parts[-4:] if part not in ("/", "..", "."))
    with replacing(folder / f"{name}.png") as temporary:
        drawn.save(temporary, format="png")


def _write_csv(path: Path, rows: Sequence[dict[str, str | float | None]]) -> None:
    from moleflow.files import replacing

    with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    sys.exit(main())
