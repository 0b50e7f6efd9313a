"""How often a trained model's verdicts err: normal test images called a defect or unknown, defects called normal.

    python benchmarks/false_alarms.py RUN

The images are the test images of the run's own data set, which no limit was learned from. ``--deviations`` tries
other limits than the shipped one, in standard deviations above the mean of the training scores.
"""

import argparse
import math
from collections import Counter
from pathlib import Path

from omegaconf import OmegaConf

from moleflow.detector.detector import MoLEFlow
from moleflow.detector.predictor import Prediction, Predictor
from moleflow.experiment.build import build_data


def main() -> None:
    """Print the rates of each category and of all."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("run", type=Path, metavar="RUN")
    made.add_argument("--deviations", type=float, nargs="*", default=[3.0, 4.0, 6.0, 8.0], help="limits to compare")
    given = made.parse_args()
    config = OmegaConf.load(given.run / "config.yaml")
    model = MoLEFlow.load(given.run)
    predictor = Predictor(model)
    data = build_data(OmegaConf.to_container(config, resolve=True))
    total: dict[int, list[Prediction]] = {0: [], 1: []}
    print("category        normal: defect  unknown  of    defective: normal  of")
    for category in data.categories:
        found = {}
        for label in (0, 1):
            paths = [s.path for s in data.samples("test", category) if s.label == label]
            found[label] = list(predictor.stream(paths))
            total[label] += found[label]
        _line(category, found)
    _line("all", total)
    print("\ndeviations  normal called defect  defective called normal, by the score alone")
    for deviations in given.deviations:
        above = {label: [_distance(p, model) > deviations for p in total[label]] for label in (0, 1)}
        print(f"{deviations:10g}  {sum(above[0]) / len(above[0]):20.3f}  {1 - sum(above[1]) / len(above[1]):23.3f}")


def _line(name: str, found: dict[int, list[Prediction]]) -> None:
    normal, defective = (Counter(p.verdict for p in found[label]) for label in (0, 1))
    alarms = f"{normal['defect']:14d}  {normal['unknown']:7d}  {normal.total():2d}"
    print(f"{name:14}  {alarms}  {defective['normal']:17d}  {defective.total():2d}")


def _distance(prediction: Prediction, model: MoLEFlow) -> float:
    """Return how far a score lies above the mean of its expert's training scores, in their standard deviations."""
    if prediction.expert is None or prediction.score is None:
        return math.nan
    scores = model.seen[prediction.expert].scores.double()
    return float((prediction.score - scores.mean()) / scores.std())


if __name__ == "__main__":
    main()
