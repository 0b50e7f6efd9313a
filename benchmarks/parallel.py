"""One run whose experts are learned one after another, against the same with two processes beside each other.

    python benchmarks/parallel.py --out parallel.json

The commands that a user would type, on generated images whose features are in the cache already: five categories of
32 training images, ResNet-18 at 128 pixels, 256 numbers a patch, the method's flow. The first task is learned by the
run itself in both forms. Model files and scores must be equal to the last bit, or the benchmark fails; the seconds are
those of the whole command, start of Python included.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from program import write_tree
from side_by_side import Row, parse, parser, seconds, show, write

ROOT = Path(__file__).parents[1]
PROGRAM = (
    "dataset=folder", "backbone=resnet18", "backbone.pretrained=false", "backbone.dim=256", "transform.size=128",
    "trainer=cpu", "callbacks=minimal", "progress=false",
)  # fmt: skip
PARALLEL = ("scenario.parallel=true", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2")


def main(given: Sequence[str] | None = None) -> None:
    """Print the table and write it."""
    made = parser(__doc__)
    made.add_argument("--epochs", type=int, default=60, help="epochs a task")
    arguments = parse(made, given)
    categories, epochs = (3, 1) if arguments.smoke else (5, arguments.epochs)
    forms = {
        "one after another, 1 thread": (1, ()),
        "one after another, 2 threads": (2, ()),
        "two processes of 1 thread": (1, PARALLEL),
    }
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as place:
        base = Path(place)
        tree = write_tree(base / "tree", [f"kind{i}" for i in range(categories)], 128, train=32, test=4)
        common = [*PROGRAM, f"dataset.root={tree}", f"features.cache_dir={base / 'cache'}"]
        _run(1, *common, "epochs=1", f"hydra.run.dir={base / 'warm'}")
        for i, (form, (threads, overrides)) in enumerate(forms.items()):
            folder = base / str(i)
            command = [*common, f"epochs={epochs}", f"hydra.run.dir={folder}", *overrides]
            took = seconds(lambda: _run(threads, *command))  # noqa: B023
            learning = json.loads((folder / "metrics.json").read_text())["seconds"]["training"]
            rows.append({"form": form, "seconds": took, "learning_seconds": learning})
        assert _content(base / "0") == _content(base / "2"), "the two forms differ"
    for row in rows:
        row["ratio"] = rows[0]["seconds"] / row["seconds"]
    show(rows, {"form": "", "seconds": ".1f", "learning_seconds": ".1f", "ratio": ".2f"})
    write(arguments.out, {"rows": rows})


def _run(threads: int, *overrides: str) -> None:
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    environment["PYTHONPATH"] = f"{ROOT / 'src'}{os.pathsep}{environment.get('PYTHONPATH', '')}"
    subprocess.run(
        [sys.executable, str(ROOT / "train.py"), *overrides], check=True, env=environment, capture_output=True
    )


def _content(folder: Path) -> dict[str, bytes]:
    paths = [folder / "scores.csv", *(path for path in (folder / "model").rglob("*") if path.is_file())]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


if __name__ == "__main__":
    main()
