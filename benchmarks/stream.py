"""Cost of a long stream: 60 categories one after another, then the prediction of 2,000 images with their maps.

    python benchmarks/stream.py --threads 1 --out stream.json --plot stream.svg

A memory bank per category on a small untrained network at 64 pixels. Seconds are those of the processor, so that other
work of the machine does not count. Memory is the resident memory, and files are the open file descriptors of the
process.
"""

import contextlib
import io
import json
import logging
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import matplotlib as mpl
from inputs import write_image, write_tree
from side_by_side import Row, benchmark_parser, parse_args, print_table, resident_bytes, write_result

from moleflow.cli.predict import MapWriter
from moleflow.detector.predictor import Predictor
from moleflow.experiment.compose import run_in_process
from moleflow.inference.ensemble import load_detector
from moleflow.training.callbacks.base import RunCallback
from moleflow.training.context import RunContext, TaskReport
from moleflow.visualization.plots import STYLE, figure, save_figure

SIDE = 64  # pixels of an image
COLUMNS = {"seconds": ".3f", "resident_mb": ".0f", "open_files": ""}


class Meter(RunCallback):
    """Appends the costs since its previous call to a file, one JSON object per line.

    Args:
        path: The file.
    """

    def __init__(self, path: str) -> None:
        self.path = Path(path)
        self._before = time.process_time()

    def on_task_evaluated(self, context: RunContext, report: TaskReport) -> None:
        """Append the cost of a task."""
        self.add("task", report.task.index + 1)

    def add(self, kind: str, number: int) -> None:
        """Append the cost since the previous call.

        Args:
            kind: Key of the number.
            number: Tasks or images so far.
        """
        now = time.process_time()
        files = len(os.listdir("/proc/self/fd"))
        row = {kind: number, "seconds": now - self._before, "resident_mb": resident_bytes() / 1e6, "open_files": files}
        with self.path.open("a") as file:
            file.write(json.dumps(row) + "\n")
        self._before = time.process_time()

    def rows(self) -> list[Row]:
        """Return the content of the file."""
        return [json.loads(line) for line in self.path.read_text().splitlines()]


def train(folder: Path, categories: int, train_images: int) -> list[Row]:
    """Train one task per category and return the cost of each task.

    Args:
        folder: Folder of the data set and of the run.
        categories: Number of categories.
        train_images: Training images per category.
    """
    write_tree(folder / "data", [f"category{i:02}" for i in range(categories)], SIDE, train_images, 1)
    overrides = (
        f"dataset=folder dataset.root={folder / 'data'} backbone=resnet18 backbone.name=test_resnet backbone.dim=16 "
        f"backbone.pretrained=false transform.size={SIDE} scoring.map_size={SIDE} model=patchcore model.size=100 "
        "scoring.top_k=2 features.cache_dir=null progress=false callbacks=minimal trainer=cpu "
        f"+callbacks.meter._target_=stream.Meter +callbacks.meter.path={folder / 'tasks.jsonl'}"
    )
    run_in_process([*overrides.split(), f"hydra.run.dir={folder / 'run'}"])
    return Meter(str(folder / "tasks.jsonl")).rows()


def predict(folder: Path, images: int, step: int) -> list[Row]:
    """Classify images as ``moleflow predict --maps --json`` does, and return the cost of every ``step`` images.

    Args:
        folder: Folder of the run.
        images: Number of images.
        step: Images per row.
    """
    paths = [write_image(folder / "images" / f"{i:04}.png", SIDE, i % 60, 10_000 + i) for i in range(images)]
    detector = load_detector(folder / "run")
    predictor = Predictor(detector)
    maps = MapWriter(detector.experts, predictor, folder / "maps", ["png"], with_regions=True)
    meter = Meter(str(folder / "images.jsonl"))
    for number, prediction in enumerate(predictor.stream(paths), 1):
        maps.write(prediction)
        if number % step == 0:
            meter.add("image", number)
    return meter.rows()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Hide the messages of a run: data sets this small cause justified warnings."""
    logging.disable(logging.WARNING)
    with contextlib.redirect_stdout(io.StringIO()):
        yield
    logging.disable(logging.NOTSET)


def main(args: Sequence[str] | None = None) -> None:
    """Run both parts and print every tenth row of each."""
    parser = benchmark_parser(__doc__)
    parser.add_argument("--plot", type=Path, metavar="FILE", help="also draw the costs, as SVG")
    options = parse_args(parser, args)
    categories, train_images, images, step = (2, 3, 4, 2) if options.smoke else (60, 5, 2000, 100)
    with tempfile.TemporaryDirectory() as temporary, quiet():
        tasks = train(Path(temporary), categories, train_images)
        predictions = predict(Path(temporary), images, step)
    for kind, rows in (("task", tasks), ("image", predictions)):
        shown = [
            row for i, row in enumerate(rows) if i in (0, 1, len(rows) - 1) or (i + 1) % max(1, len(rows) // 5) == 0
        ]
        print_table(shown, {kind: "", **COLUMNS})
    write_result(options.out, {"tasks": tasks, "predictions": predictions}, options.device)
    if options.plot is not None:
        plot(tasks, predictions, options.plot)


def plot(tasks: Sequence[Row], predictions: Sequence[Row], path: Path) -> None:
    """Draw the costs over the number of tasks and of predicted images.

    The first row of each is not drawn, because it has the cost of the start.

    Args:
        tasks: Rows of the tasks.
        predictions: Rows of the predictions.
        path: The SVG file.
    """
    drawing, axes = figure(8, 5, columns=2, rows=3)
    parts = (("task", "task", tasks[1:]), ("image", f"{predictions[0]['image']} images", predictions[1:]))
    for column, (kind, unit, rows) in enumerate(parts):
        axes[-2 + column].set_xlabel(f"{kind}s")
        names = {"seconds": f"s per {unit}", "resident_mb": "resident MB", "open_files": "open files"}
        for axis, (key, name) in zip(axes[column::2], names.items(), strict=True):
            axis.plot([row[kind] for row in rows], [row[key] for row in rows], ".-")
            axis.set_ylabel(name)
            axis.set_ylim(0, 1.15 * max(row[key] for row in rows))
    with mpl.rc_context(STYLE):
        save_figure(drawing, path, format="svg", metadata={"Date": None})


if __name__ == "__main__":
    main()
