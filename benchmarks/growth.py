"""Cost of each task in a sequence of 27: the 15 categories of MVTec AD and the 12 of VisA, in small.

    python benchmarks/growth.py --out growth.json

The whole program (backbone, training, routing, files, evaluation of all categories so far) runs on 27 generated
categories with ResNet-18 at 64 pixels and 128 channels. The parameters and bytes of each expert must be equal from
task 1 to task 27, or the benchmark fails; seconds and memory are printed beside them.
"""

import json
import logging
import resource
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from inputs import write_tree
from side_by_side import (
    Row,
    assert_close,
    benchmark_parser,
    clock,
    parse_args,
    print_table,
    resident_bytes,
    write_result,
)

from moleflow.data.tasks import ORDERS
from moleflow.experiment.compose import run_in_process
from moleflow.training.callbacks.base import RunCallback
from moleflow.training.context import RunContext, TaskReport

PRINTED_TASKS = (1, 5, 15, 27)


class CostMeter(RunCallback):
    """Writes one JSON line per task with its cost.

    Args:
        path: The file.
    """

    def __init__(self, path: str) -> None:
        self.path = Path(path)
        self._before: dict[str, float] = {}
        self._begin = clock()

    def on_task_evaluated(self, context: RunContext, report: TaskReport) -> None:
        """Write the line of a task."""
        now = clock()
        patch_model = context.model.patch_model
        expert = patch_model.names[-1]
        files = [
            path.stat().st_size for path in (context.folder / "model").rglob("*.safetensors") if path.stem == expert
        ]
        total = context.progress.seconds
        line: Row = {
            "task": report.task.index + 1,
            "expert_parameters": sum(p.numel() for p in patch_model.expert(expert).parameters()),
            "expert_bytes": sum(files),
            "seconds": now - self._begin,
            **{f"{activity}_seconds": value - self._before.get(activity, 0.0) for activity, value in total.items()},
            "resident_mb": resident_bytes() / 1e6,
            "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3,
        }
        with self.path.open("a") as file:
            file.write(json.dumps(line) + "\n")
        self._before, self._begin = dict(total), clock()


def main(args: Sequence[str] | None = None) -> None:
    """Run, check that the experts do not grow, and print the costs."""
    parser = benchmark_parser(__doc__)
    parser.add_argument("--epochs", type=int, default=4, help="epochs per task")
    options = parse_args(parser, args)
    categories, dim, train, test = [*ORDERS["mvtec"], *ORDERS["visa"]], 128, 8, 3
    if options.smoke:
        categories, dim, train, test = categories[:3], 16, 3, 1
    logging.disable(logging.WARNING)  # data sets this small cause justified warnings
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
            f"epochs={1 if options.smoke else options.epochs}",
            "features.cache_dir=null",
            "progress=false",
            "callbacks=minimal",
            "+callbacks.meter._target_=growth.CostMeter",
            f"+callbacks.meter.path={folder / 'meter.jsonl'}",
            f"trainer={'gpu' if torch.device(options.device).type == 'cuda' else 'cpu'}",
        ]
        run_in_process([*overrides, f"hydra.run.dir={folder / 'run'}"])
        lines: list[Row] = [json.loads(line) for line in (folder / "meter.jsonl").read_text().splitlines()]
    logging.disable(logging.NOTSET)
    for key in ("expert_parameters", "expert_bytes"):  # the first adapter differs in its values, not in its size
        values = torch.tensor([line[key] for line in lines])
        assert_close(key, values, values[:1].expand(len(values)), 0)
    print_table(
        [line for line in lines if line["task"] in PRINTED_TASKS or line["task"] == len(lines)],
        {"task": "", "expert_parameters": ",", "expert_bytes": ",", "seconds": ".2f", "features_seconds": ".2f"}
        | {"training_seconds": ".2f", "evaluation_seconds": ".2f", "resident_mb": ".0f", "peak_mb": ".0f"},
    )
    third = max(1, (len(lines) - 1) // 3)
    early, late = (
        statistics.median(line["seconds"] for line in part) for part in (lines[1 : 1 + third], lines[-third:])
    )
    print(f"Median seconds of a later task: {early:.2f} in the first third, {late:.2f} in the last.")
    write_result(options.out, {"tasks": lines, "early_seconds": early, "late_seconds": late}, options.device)


if __name__ == "__main__":
    main()
