"""Error rates of a trained model's verdicts: normal test images called defect or unknown, defects called normal.

    python benchmarks/false_alarms.py RUN

The images are the test images of the run's own data set, from which no threshold was computed. ``--deviations``
compares score thresholds other than the default, in standard deviations above the mean training score.
"""

import math
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from inputs import write_tree
from side_by_side import Row, benchmark_parser, parse_args, print_table, write_result

from moleflow.detector.detector import MoLEFlow
from moleflow.detector.predictor import Prediction, Predictor
from moleflow.experiment.build import build_data
from moleflow.experiment.compose import run_in_process
from moleflow.runs.reader import load_config


def main(args: Sequence[str] | None = None) -> None:
    """Print the counts per category, and the error rates of several thresholds."""
    parser = benchmark_parser(__doc__)
    parser.add_argument("run", type=Path, nargs="?", metavar="RUN", help="a finished run; not needed with --smoke")
    parser.add_argument(
        "--deviations", type=float, nargs="*", default=[3.0, 4.0, 6.0, 8.0], help="thresholds to compare"
    )
    options = parse_args(parser, args)
    if options.run is None and not options.smoke:
        parser.error("the argument RUN is required")
    with tempfile.TemporaryDirectory() as temporary:
        run = options.run or _train_small_run(Path(temporary))
        counts, rates = measure(run, options.deviations, options.device)
    print_table(counts, dict.fromkeys(counts[0], ""))
    print("\nBy the score alone:")
    formats = {"deviations": "g", "normal_called_defect": ".3f", "defective_called_normal": ".3f"}
    print_table(rates, formats)
    write_result(options.out, {"rows": counts, "rates": rates}, options.device)


def measure(run: Path, deviations: Sequence[float], device: str) -> tuple[list[Row], list[Row]]:
    """Return the counts of verdicts per category and in total, and the error rates per threshold.

    Args:
        run: A finished run.
        deviations: Thresholds, in standard deviations above the mean training score.
        device: Where the model computes.
    """
    model = MoLEFlow.load(run, device)
    predictor = Predictor(model)
    data = build_data(load_config(run))
    rows: list[Row] = []
    total: dict[int, list[Prediction]] = {0: [], 1: []}
    for category in data.categories:
        predictions = {}
        for label in (0, 1):
            paths = [sample.path for sample in data.samples("test", category) if sample.label == label]
            predictions[label] = list(predictor.stream(paths))
            total[label] += predictions[label]
        rows.append(_count_verdicts(category, predictions))
    rows.append(_count_verdicts("all", total))
    rates: list[Row] = []
    for threshold in deviations:
        above = {label: [_deviation(p, model) > threshold for p in total[label]] for label in (0, 1)}
        rates.append(
            {
                "deviations": threshold,
                "normal_called_defect": sum(above[0]) / len(above[0]),
                "defective_called_normal": 1 - sum(above[1]) / len(above[1]),
            }
        )
    return rows, rates


def _train_small_run(folder: Path) -> Path:
    """Train a small closed-form model on generated images and return the run folder."""
    root = write_tree(folder / "data", ("first", "second"), size=64, train=6, test=2)
    overrides = (
        "dataset=folder", f"dataset.root={root}", "backbone=resnet18", "backbone.pretrained=false", "backbone.dim=16",
        "transform.size=64", "model=gaussian", "epochs=1", "trainer=cpu", "features.cache_dir=null", "progress=false",
        "callbacks=minimal",
    )  # fmt: skip
    run_in_process(overrides, folder / "run")
    return folder / "run"


def _count_verdicts(category: str, predictions: dict[int, list[Prediction]]) -> Row:
    normal, defective = (Counter(p.verdict for p in predictions[label]) for label in (0, 1))
    return {
        "category": category,
        "normal_images": normal.total(),
        "called_defect": normal["defect"],
        "called_unknown": normal["unknown"],
        "defective_images": defective.total(),
        "called_normal": defective["normal"],
    }


def _deviation(prediction: Prediction, model: MoLEFlow) -> float:
    """Return the score minus the mean of its expert's training scores, in their standard deviations."""
    if prediction.expert is None or prediction.score is None:
        return math.nan
    training = model.experts[prediction.expert].training
    assert training is not None
    scores = training.scores.double()
    return float((prediction.score - scores.mean()) / scores.std())


if __name__ == "__main__":
    main()
