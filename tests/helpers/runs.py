"""Run folders with known metrics and effects."""

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

CATEGORIES = ("bottle", "cable", "pill")
CONFIG: dict[str, Any] = {
    "dataset": {"_target_": "moleflow.data.datamodule.MVTecDataModule", "root": "/data", "categories": None},
    "backbone": {"_target_": "moleflow.features.backbone.PatchBackbone", "name": "wide_resnet50_2",
                 "layers": ["l2", "l3"], "dim": 768},
    "model": {"dim": 768, "coupling_layers": 6, "dia_blocks": 2, "lora_rank": 64, "adapter": "affine_norm", "seed": 0},
    "loss": {"tail_weight": 0.7, "lambda_logdet": 1e-4},
    "scoring": {"aggregation": "top_k", "top_k": 3, "map_size": 224},
    "router": {"rule": "shared_covariance"},
    "optimizer": {"lr": 3e-4},
    "scenario": {"split": "1-1", "experts": "task"},
    "trainer": {"accelerator": "auto"},
    "transform": {"size": 224},
    "name": "main",
    "seed": 0,
    "epochs": 60,
    "batch_size": 16,
}  # fmt: skip


def write_run(
    root: Path,
    run_id: str,
    changes: Mapping[str, Any] | None = None,
    pixel_ap: float = 0.5,
    image_auroc: float = 0.95,
    seed: int = 0,
    categories: Sequence[str] = CATEGORIES,
    overrides: Sequence[str] | None = None,
    **metrics: Any,
) -> Path:
    """Write a finished run and return its folder.

    Args:
        root: Folder of the runs.
        run_id: Path of the run below it.
        changes: Values that differ from `CONFIG`, by dotted key.
        pixel_ap: Mean over the categories, whose values are spread evenly from -0.1 to 0.1 around it.
        image_auroc: Value of every category.
        seed: The seed.
        categories: The categories, one per task.
        overrides: Overrides of the command; by default the changes.
        metrics: Further entries of ``metrics.json``.
    """
    folder = root / run_id
    folder.mkdir(parents=True)
    changes = dict(changes or {})
    config = json.loads(json.dumps(CONFIG)) | {"seed": seed}
    config["model"]["seed"] = seed
    for key, value in changes.items():
        *parents, last = key.split(".")
        target = config
        for parent in parents:
            target = target.setdefault(parent, {})
        target[last] = value
    (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    (folder / "status.json").write_text(json.dumps({"status": "finished", "reason": ""}))
    if overrides is None:
        overrides = [f"{key}={value}" for key, value in changes.items() if key != "reported"]
    values = {c: pixel_ap + shift for c, shift in zip(categories, np.linspace(-0.1, 0.1, len(categories)), strict=True)}
    content = run_metrics(values, image_auroc) | {"overrides": [*overrides, f"seed={seed}"]} | metrics
    (folder / "metrics.json").write_text(json.dumps(content))
    _write_scores(folder / "scores.csv", categories)
    return folder


def run_metrics(pixel_ap: Mapping[str, float], image_auroc: float) -> dict[str, Any]:
    """Return the content of ``metrics.json``.

    Args:
        pixel_ap: Pixel AP by category.
        image_auroc: Image AUROC of every category.
    """
    names = list(pixel_ap)
    mean = float(np.mean(list(pixel_ap.values())))
    means = {"image_auroc": image_auroc, "image_ap": 0.98, "pixel_auroc": 0.97, "pixel_ap": mean, "pro": 0.9}
    per_category = {
        c: means | {"pixel_ap": value, "routing_accuracy": 1.0, "train_pictures": 20, "oracle": {}}
        for c, value in pixel_ap.items()
    }
    rows = [[pixel_ap[c] for c in names[: i + 1]] for i in range(len(names))]
    epoch = {"loss": 3.0, "nll_mean": 2.5, "lr": 1e-4}
    return {
        "status": "finished",
        **means,
        "routing_accuracy": 1.0,
        "forgetting": {"pixel_ap": 0.0, "image_auroc": 0.0, "routing_accuracy": 0.15},
        "backward_transfer": {"pixel_ap": 0.0},
        "oracle": means,
        "per_category": per_category,
        "task_matrix": {
            "tasks": [[c] for c in names],
            "pixel_ap": rows,
            "routing_accuracy": [[max(0.0, 1.0 - 0.1 * (i - j)) for j in range(i + 1)] for i in range(len(names))],
        },
        "routing": {"experts": names, "counts": {c: {c: 10} for c in names}},
        "parameters": {"base": 1000, "experts": dict.fromkeys(names, 500), "backbone": 9000},
        "training": {
            "steps": 6,
            "skipped_steps": [0] * len(names),
            "epochs": [[epoch, epoch | {"loss": 2.0}]] * len(names),
        },
        "seconds": {"features": 1.0, "training": 30.0, "evaluation": 2.0},
        "memory": {"peak_bytes": 2_000_000_000},
        "versions": {"moleflow": "0.1.0"},
        "device": "cpu",
        "finished": "2026-01-01T00:00:00+0000",
    }


def write_known_effects(root: Path) -> Path:
    """Write runs with known effects of single keys; return the folder."""
    noise = {0: -0.002, 1: 0.0, 2: 0.002}
    for seed, shift in noise.items():
        write_run(root, f"main/default/seed{seed}", {}, 0.50 + shift, 0.95, seed)
        for weight, effect in ((0.0, -0.10), (0.3, -0.04), (1.0, 0.02)):
            pixel_ap = 0.50 + effect + shift
            write_run(root, f"main/w{weight}/seed{seed}", {"loss.tail_weight": weight}, pixel_ap, 0.95, seed)
        # The learning rate has no effect: its seeds have the opposite noise.
        write_run(root, f"main/lr/seed{seed}", {"optimizer.lr": 1e-4}, 0.5002 - shift, 0.95, seed)
        # Without DIA blocks 0.06 is lost, without the tail term 0.10, without both 0.11.
        write_run(root, f"main/dia0/seed{seed}", {"model.dia_blocks": 0}, 0.44 + shift, 0.94, seed)
        both = {"model.dia_blocks": 0, "loss.tail_weight": 0.0}
        write_run(root, f"main/bare/seed{seed}", both, 0.39 + shift, 0.93, seed)
    # Two keys at once are the effect of neither.
    write_run(root, "main/two_keys/seed0", {"optimizer.lr": 9e-4, "epochs": 80}, 0.70, 0.90)
    vit = {"backbone.name": "vit", "backbone.layers": [3, 7], "backbone.dim": 384, "model.dim": 384}
    write_run(root, "main/vit/seed0", vit, 0.30, 0.97)
    visa = {"dataset._target_": "moleflow.data.datamodule.VisADataModule", "name": "visa"}
    write_run(root, "other/visa", visa, 0.2, 0.8, categories=("pcb1", "pcb2"))
    reported = {"reported": {"pixel_ap": 0.47, "image_auroc": 0.951, "note": "old log"}, "epochs": 70}
    skipped = {"skipped_steps": [0, 4, 0]}
    write_run(root, "main/reported/seed0", reported, 0.50, 0.95, overrides=["epochs=70"], training=skipped)
    return root


def write_faulty(root: Path) -> Path:
    """Write run folders without usable results, one of each kind; return the folder."""

    def put(folder: str, name: str, text: str) -> None:
        (root / folder).mkdir(parents=True, exist_ok=True)
        (root / folder / name).write_text(text)

    metrics = json.dumps(run_metrics({"a": 0.1}, 0.5))
    put("crashed", "config.yaml", "dataset: {}")
    put("crashed", "status.json", json.dumps({"status": "failed", "reason": "task 2/3 cable: the loss is nan"}))
    put("stopped", "status.json", json.dumps({"status": "running", "reason": ""}))
    put("resumed", "config.yaml", "dataset: {}")
    put("resumed", "metrics.json", metrics)
    put("resumed", "status.json", json.dumps({"status": "running", "reason": ""}))
    put("cut", "metrics.json", '{"status": "finished", "per_cat')
    put("cut", "config.yaml", "dataset: {}")
    put("no_config", "metrics.json", metrics)
    put("bad_yaml", "metrics.json", metrics)
    put("bad_yaml", "config.yaml", "a: [1, {")
    put("foreign", "metrics.json", json.dumps([{"accuracy": 0.9}]))
    put("foreign", "config.yaml", "optimizer: sgd")
    put("gone", "status.json", json.dumps({"status": "finished"}))
    put("binary", "metrics.json", "\x00\x01")
    return root


def _write_scores(path: Path, categories: Sequence[str]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("path", "category", "defect", "label", "image_score", "routed_to"))
        for category in categories:
            for i in range(8):
                label = i % 2
                defect = "bad" if label else "good"
                writer.writerow((f"{category}/{i}.png", category, defect, label, float(i + 3 * label), category))
