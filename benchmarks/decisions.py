"""Decisions of trained models on their test images: false alarms, recall and unknown images, per category.

    python benchmarks/decisions.py RUN...
    python benchmarks/decisions.py RUN... --calibrate leather=16

The counts of several runs, such as seeds, are summed. Per category and false-alarm rate:

* ``false_alarms`` of ``normal`` test images, the interval of 95 % of a binomial distribution with the rate that was
  asked for, and whether the count is inside;
* ``recall``, and ``best_recall``, that of the lowest threshold with as many false alarms;
* ``sound_unknown``, the share of normal images that are classified as unknown, and ``foreign_unknown``, the share of
  all test images of the category that a router without it classifies as unknown;
* ``drifted``, whether `predict` reports that the normal test images no longer resemble the training images.

Scores and routes are read from ``scores.csv``. With ``--calibrate`` the thresholds of a category are computed from so
many of its normal test images, drawn by the seed of the run, and measured on the others.
"""

import csv
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from inputs import train_small_run
from scipy.stats import binom
from side_by_side import Row, benchmark_parser, parse_args, print_table, write_result
from torch import Tensor

from moleflow.detector.base import Detector
from moleflow.detector.calibration import Calibration
from moleflow.detector.detector import MoLEFlow
from moleflow.detector.folders import ENSEMBLE_FILE
from moleflow.experiment.build import build_data, feature_cache
from moleflow.inference.ensemble import load_detector
from moleflow.routing.router import Router
from moleflow.routing.statistics import FeatureStatistics
from moleflow.runs.reader import load_config
from moleflow.scoring.drift import compare_scores
from moleflow.scoring.thresholds import UNKNOWN_RATE, pooled_thresholds
from moleflow.utils.random import generator


def main(args: Sequence[str] | None = None) -> None:
    """Print one row per category and rate, and the sums over the categories."""
    parser = benchmark_parser(__doc__)
    parser.add_argument("runs", type=Path, nargs="*", metavar="RUN", help="finished runs; not needed with --smoke")
    parser.add_argument("--rates", type=float, nargs="+", default=[0.01, 0.05], help="false-alarm rates to compare")
    parser.add_argument("--calibrate", nargs="+", default=[], metavar="CATEGORY=COUNT", help="images for calibration")
    options = parse_args(parser, args)
    if not options.runs and not options.smoke:
        parser.error("the argument RUN is required")
    calibrate = {name: int(count) for name, _, count in (text.partition("=") for text in options.calibrate)}
    with tempfile.TemporaryDirectory() as temporary:
        runs = options.runs or [train_small_run(Path(temporary))]
        rows = measure(runs, options.rates, calibrate, options.device)
    print_table(rows, dict.fromkeys(rows[0], ""))
    write_result(options.out, {"rows": rows}, options.device)


@dataclass
class Counts:
    """Counts of one category at one rate, summed over runs."""

    training: int = 0
    normal: int = 0
    false_alarms: int = 0
    defective: int = 0
    hits: int = 0
    best_hits: int = 0
    sound_unknown: int = 0
    foreign: int = 0
    foreign_unknown: int = 0
    drifted: list[bool] = field(default_factory=list)

    def __add__(self, other: "Counts") -> "Counts":
        """Return the sums of both."""
        return Counts(**{key: value + getattr(other, key) for key, value in vars(self).items()})

    def row(self, category: str, rate: float) -> Row:
        """Return the row of the table."""
        low, high = binom.interval(0.95, self.normal, rate) if self.normal else (0, 0)
        return {
            "category": category,
            "training": self.training,
            "rate": f"{rate:g}",
            "false_alarms": f"{self.false_alarms}/{self.normal}",
            "interval": f"{low:.0f}-{high:.0f}",
            "inside": "yes" if low <= self.false_alarms <= high else "no",
            "recall": _share(self.hits, self.defective),
            "best_recall": _share(self.best_hits, self.defective),
            "sound_unknown": _share(self.sound_unknown, self.normal),
            "foreign_unknown": _share(self.foreign_unknown, self.foreign),
            "drifted": f"{sum(self.drifted)}/{len(self.drifted)}",
        }


@dataclass(frozen=True)
class TestImage:
    """A test image of a finished run.

    Attributes:
        label: 0 for a normal image, 1 for one with a defect.
        score: Image score under ``expert``.
        expert: The routed expert.
        distances: Router distances to all experts by name.
    """

    label: int
    score: float
    expert: str
    distances: Mapping[str, float]


def measure(runs: Sequence[Path], rates: Sequence[float], calibrate: Mapping[str, int], device: str) -> list[Row]:
    """Return the rows of the table.

    Args:
        runs: Finished runs of the same categories.
        rates: False-alarm rates.
        calibrate: Number of normal test images for the calibration of some categories.
        device: Where the image features are computed that are not in the feature cache of the run.
    """
    counts: dict[tuple[str, float], Counts] = defaultdict(Counts)
    for run in runs:
        config = load_config(run)
        ensemble = (run / ENSEMBLE_FILE).is_file()
        detector = load_detector(run, device) if ensemble else MoLEFlow.load(run, device, cache=feature_cache(config))
        data = build_data(config)
        with (run / "scores.csv").open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        features = {
            category: detector.image_features([sample.path for sample in data.samples("test", category)])
            for category in data.categories
        }
        images = {
            category: _test_images(category, rows, detector.router, features[category]) for category in data.categories
        }
        calibrations = {}
        for category, count in calibrate.items():
            normal = [image for image in images[category] if not image.label]
            order = torch.randperm(len(normal), generator=generator(int(config["seed"]), "calibrate"))
            drawn = [normal[i] for i in order[:count].tolist()]
            images[category] = [image for image in images[category] if image not in drawn]
            name = detector.expert_of(category)
            scores = tuple(image.score for image in drawn)
            distances = tuple(image.distances[name] for image in drawn)
            calibrations[name] = Calibration(scores, scores, distances, tuple(detector.experts))
        detector.calibrations = calibrations
        for category in data.categories:
            unknown = _foreign_unknown(detector, category, features[category])
            for rate in rates:
                counts[category, rate] += _count(detector, category, images[category], rate, unknown)
    table = [entry.row(category, rate) for (category, rate), entry in counts.items()]
    for rate in rates:
        total = sum((entry for (_, other), entry in counts.items() if other == rate), Counts())
        table.append(total.row("all", rate))
    return table


def _test_images(category: str, rows: Sequence[Mapping[str, str]], router: Router, features: Tensor) -> list[TestImage]:
    """Return the test images of a category.

    Args:
        category: The category.
        rows: Rows of ``scores.csv``, in the order of the data module.
        router: The router.
        features: Image features (N, D) of the images.
    """
    own = [row for row in rows if row["category"] == category]
    return [
        TestImage(
            int(row["label"]),
            float(row["image_score"]),
            row["routed_to"],
            dict(zip(router.names, distances, strict=True)),
        )
        for row, distances in zip(own, router.distances(features).tolist(), strict=True)
    ]


def _count(
    detector: Detector, category: str, images: Sequence[TestImage], rate: float, unknown: Sequence[bool]
) -> Counts:
    """Return the counts of one run.

    Args:
        detector: The detector.
        category: The category of the images.
        images: Its test images.
        rate: False-alarm rate.
        unknown: Whether a router without the category classifies each image as unknown.
    """
    thresholds = {name: detector.thresholds(name, rate) for name in detector.experts}

    def excess(image: TestImage) -> float:
        value = thresholds[image.expert].score.value
        return float("nan") if value is None else image.score - value

    normal, defective = (np.array([excess(image) for image in images if image.label == label]) for label in (0, 1))
    alarms = int((normal > 0).sum())
    best = np.sort(normal)[::-1][alarms] if alarms < len(normal) else -np.inf
    own = thresholds[detector.expert_of(category)]
    training = detector.experts[detector.expert_of(category)].training
    assert training is not None
    sound = [image for image in images if not image.label]
    comparison = compare_scores([image.score for image in sound], own.normal_scores, own.score.value or 0.0, rate)
    limits = [thresholds[image.expert].distance.value for image in sound]
    return Counts(
        training=len(training.scores),
        normal=len(normal),
        false_alarms=alarms,
        defective=len(defective),
        hits=int((defective > 0).sum()),
        best_hits=int((defective > best).sum()),
        sound_unknown=sum(
            limit is not None and image.distances[image.expert] > limit
            for image, limit in zip(sound, limits, strict=True)
        ),
        foreign=len(unknown),
        foreign_unknown=sum(unknown),
        drifted=[comparison.drifted],
    )


def _foreign_unknown(detector: Detector, category: str, image_features: Tensor) -> list[bool]:
    """Return whether a router without the category's expert classifies its images as unknown."""
    router = Router(detector.router.rule, detector.router.shrinkage)
    others = {name: record for name, record in detector.experts.items() if category not in record.categories}
    if not others:
        return []
    scores = {name: record.training for name, record in others.items() if record.training is not None}
    for name, training in scores.items():
        router.add(name, FeatureStatistics.from_features(training.features))
    distances = {
        name: router.leave_one_out_distances(name, training.features, training.groups).numpy()
        for name, training in scores.items()
    }
    limits = [threshold.value or float("inf") for threshold in pooled_thresholds(distances, UNKNOWN_RATE).values()]
    nearest = router.distances(image_features).min(1)
    return (nearest.values > torch.tensor(limits)[nearest.indices]).tolist()


def _share(count: int, total: int) -> str:
    return f"{count / total:.3f}" if total else "-"


if __name__ == "__main__":
    main()
