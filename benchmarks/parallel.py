"""One run whose later tasks are trained one after another, against the same run with two concurrent processes.

    python benchmarks/parallel.py --out parallel.json

The commands are those of a user, on generated images whose features are in the cache: five categories of 32 training
images, ResNet-18 at 128 pixels, 256 channels, the default flow. In both forms the run itself trains the first task.
Model files and scores must be equal to the last bit, or the benchmark fails. The seconds are those of the whole
command, including the start of Python.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from inputs import write_tree
from side_by_side import Row, benchmark_parser, parse_args, print_table, seconds, write_result

ROOT = Path(__file__).parents[1]
COMMON = (
    "dataset=folder", "backbone=resnet18", "backbone.pretrained=false", "trainer=cpu", "callbacks=minimal",
    "progress=false",
)  # fmt: skip
PARALLEL = ("scenario.parallel=true", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2")


def main(args: Sequence[str] | None = None) -> None:
    """Time the commands, check that their results are equal, and print the table."""
    parser = benchmark_parser(__doc__)
    parser.add_argument("--epochs", type=int, default=60, help="epochs per task")
    options = parse_args(parser, args)
    categories, images, size, dim, epochs = 5, 32, 128, 256, options.epochs
    forms = {
        "one after another, 1 thread": (1, ()),
        "one after another, 2 threads": (2, ()),
        "two processes of 1 thread": (1, PARALLEL),
    }
    if options.smoke:
        categories, images, size, dim, epochs = 3, 2, 64, 16, 1
        del forms["one after another, 2 threads"]  # each command takes seconds to start
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as temporary:
        base = Path(temporary)
        root = write_tree(base / "tree", [f"kind{i}" for i in range(categories)], size, train=images, test=4)
        common = [
            *COMMON,
            f"dataset.root={root}",
            f"features.cache_dir={base / 'cache'}",
            f"transform.size={size}",
            f"backbone.dim={dim}",
        ]
        if not options.smoke:
            _train(1, *common, "epochs=1", f"hydra.run.dir={base / 'features'}")  # fills the feature cache
        results = []
        for form, (threads, overrides) in forms.items():
            folder = base / f"run{len(rows)}"
            command = [*common, f"epochs={epochs}", f"hydra.run.dir={folder}", *overrides]
            row: Row = {"form": form, "seconds": seconds(partial(_train, threads, *command))}
            row["training_seconds"] = json.loads((folder / "metrics.json").read_text())["seconds"]["training"]
            rows.append(row)
            results.append(_results(folder))
        assert results[0] == results[-1], "the results of sequential and parallel training differ"
    for row in rows:
        row["ratio"] = rows[0]["seconds"] / row["seconds"]
    print_table(rows, {"form": "", "seconds": ".1f", "training_seconds": ".1f", "ratio": ".2f"})
    write_result(options.out, {"rows": rows})


def _train(threads: int, *overrides: str) -> None:
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    environment["PYTHONPATH"] = f"{ROOT / 'src'}{os.pathsep}{environment.get('PYTHONPATH', '')}"
    subprocess.run(
        [sys.executable, str(ROOT / "train.py"), *overrides], check=True, env=environment, capture_output=True
    )


def _results(folder: Path) -> dict[str, bytes]:
    paths = [folder / "scores.csv", *(path for path in (folder / "model").rglob("*") if path.is_file())]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


if __name__ == "__main__":
    main()
