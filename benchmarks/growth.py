"""What a task costs as tasks go by: MVTec AD's 15 and VisA's 12 categories in one stream, in small.

    python benchmarks/growth.py --out growth.json

The whole program (backbone, training, routing, files, evaluation of all categories seen so far) on 27 generated
categories, ResNet-18 at 64 pixels, 128 numbers a patch. Parameters and bytes a task must be equal from task 1 to 27,
to the byte, or the benchmark fails; seconds and memory are shown beside them.
"""

import json
import logging
import resource
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from program import write_tree
from side_by_side import Row, agree, parse, parser, show, write

from moleflow.data.tasks import ORDERS
from moleflow.experiment.compose import run_program
from moleflow.training.callbacks.base import RunCallback
from moleflow.training.continual_trainer import ContinualTrainer, TaskReport

SHOWN = (1, 5, 15, 27)


class Meter(RunCallback):
    """Notes after each task what it took; one JSON line a task."""

    def __init__(self, path: str) -> None:
        self.path = Path(path)
        self._before: dict[str, float] = {}
        self._begin = time.perf_counter()

    def on_task_evaluated(self, run: ContinualTrainer, report: TaskReport) -> None:
        """Write the line."""
        now = time.perf_counter()
        expert = run.model.flow.names[-1]
        files = [path.stat().st_size for path in (run.folder / "model").rglob("*.safetensors") if path.stem == expert]
        spent = {key: value - self._before.get(key, 0.0) for key, value in run.progress.seconds.items()}
        line: Row = {
            "task": report.task.index + 1,
            "expert_parameters": sum(p.numel() for p in run.model.flow.expert(expert).parameters()),
            "expert_bytes": sum(files),
            "seconds": now - self._begin,
            **{f"{key}_seconds": value for key, value in spent.items()},
            "resident_mb": _resident() / 1e6,
            "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3,
        }
        with self.path.open("a") as file:
            file.write(json.dumps(line) + "\n")
        self._before, self._begin = dict(run.progress.seconds), time.perf_counter()


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def main(given: Sequence[str] | None = None) -> None:
    """Run, check that nothing grows, print and write."""
    made = parser(__doc__)
    made.add_argument("--epochs", type=int, default=4)
    arguments = parse(made, given)
    categories, dim, train, test = [*ORDERS["mvtec"], *ORDERS["visa"]], 128, 8, 3
    if arguments.smoke:
        categories, dim, train, test = categories[:3], 16, 3, 1
    logging.disable(logging.WARNING)  # tiny categories give rise to honest doubts
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_tree(folder / "data", categories, 64, train, test)
        overrides = [
            "dataset=folder",
            f"dataset.root={folder / 'data'}",
            "backbone=resnet18",
            "backbone.pretrained=false",
            f"backbone.dim={dim}",
            "transform.size=64",
            "model.coupling_layers=4",
            "model.lora_rank=16",
            f"epochs={1 if arguments.smoke else arguments.epochs}",
            "features.cache_dir=null",
            "progress=false",
            "callbacks=minimal",
            "+callbacks.meter._target_=growth.Meter",
            f"+callbacks.meter.path={folder / 'meter.jsonl'}",
            f"trainer={'gpu' if torch.device(arguments.device).type == 'cuda' else 'cpu'}",
        ]
        run_program(overrides, folder / "run")
        lines: list[Row] = [json.loads(line) for line in (folder / "meter.jsonl").read_text().splitlines()]
    logging.disable(logging.NOTSET)
    for key in ("expert_parameters", "expert_bytes"):  # the first task's adapter differs, in value and not in size
        values = torch.tensor([line[key] for line in lines])
        agree(key, values, values[:1].expand(len(values)), 0)
    shown = [line for line in lines if line["task"] in SHOWN or line["task"] == len(lines)]
    show(
        shown,
        {"task": "", "expert_parameters": ",", "expert_bytes": ",", "seconds": ".2f", "features_seconds": ".2f"}
        | {"training_seconds": ".2f", "evaluation_seconds": ".2f", "resident_mb": ".0f", "peak_mb": ".0f"},
    )
    third = max(1, (len(lines) - 1) // 3)
    early, late = (
        statistics.median(line["seconds"] for line in part) for part in (lines[1 : 1 + third], lines[-third:])
    )
    print(f"median seconds of a task: {early:.2f} in the first third of the later ones, {late:.2f} in the last")
    write(arguments.out, {"tasks": lines, "early_seconds": early, "late_seconds": late}, arguments.device)


if __name__ == "__main__":
    main()
