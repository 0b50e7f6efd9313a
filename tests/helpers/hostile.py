"""Run folders whose content is damaged or made to harm the reader of a report."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from helpers.runs import write_run

Attack = Callable[[Path], object]
"""Changes a run folder."""


def metrics(**changes: Any) -> Attack:
    """Return an attack that replaces entries of ``metrics.json``, whose names have ``__`` between nested keys."""

    def attack(folder: Path) -> None:
        path = folder / "metrics.json"
        content = json.loads(path.read_text())
        for name, value in changes.items():
            *parents, last = name.split("__")
            target = content
            for parent in parents:
                target = target[parent]
            target[last] = value
        path.write_text(json.dumps(content))

    return attack


def config(**changes: Any) -> Attack:
    """Return an attack that replaces entries of ``config.yaml``."""

    def attack(folder: Path) -> None:
        path = folder / "config.yaml"
        path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | changes, allow_unicode=True))

    return attack


def content(name: str, text: str | bytes) -> Attack:
    """Return an attack that replaces a file."""

    def attack(folder: Path) -> None:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())

    return attack


def kind(name: str, replace: Callable[[Path], object]) -> Attack:
    """Return an attack that puts another kind of file in place of a file."""

    def attack(folder: Path) -> None:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        replace(path)

    return attack


def sparse(path: Path) -> None:
    """Create an empty file of 8 GB that occupies no disk space."""
    with path.open("wb") as file:
        file.truncate(2**33)


def renamed_category(name: str) -> Attack:
    """Return an attack that renames the category ``bottle`` and its expert."""

    def attack(folder: Path) -> None:
        for file in ("metrics.json", "scores.csv"):
            text = (folder / file).read_text()
            new = json.dumps(name)[1:-1] if file == "metrics.json" else name.encode(errors="replace").decode()
            (folder / file).write_text(text.replace("bottle", new.replace(",", ";") if file == "scores.csv" else new))

    return attack


BOMB = "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12))
ESCAPES = "\x1b]0;title\x07\x1b[31mred"

REFUSED: dict[str, tuple[Attack, str]] = {
    "alias_bomb": (content("config.yaml", BOMB + "dataset: *a11\n"), "anchor or alias 'a0'"),
    "alias_recursion": (content("config.yaml", "dataset: &a [*a]\n"), "anchor or alias 'a'"),
    "deep_yaml": (content("config.yaml", "dataset: " + "[" * 200 + "]" * 200), "more than 32 nested levels"),
    "deep_block_yaml": (content("config.yaml", "dataset:\n" + "".join(" " * i + "-\n" for i in range(99))), "nested"),
    "deep_json": (content("metrics.json", '{"per_category": ' + "[" * 300 + "]" * 300 + "}"), "32 nested levels"),
    "deeper_json": (content("metrics.json", "[" * 100_000 + "]" * 100_000), "metrics.json is not JSON"),
    "python_tag": (content("config.yaml", "dataset: !!python/object/apply:os.system [id]"), "not YAML"),
    "long_yaml": (content("config.yaml", "dataset: " + "x" * 2**20), "must have at most 1048576"),
    "binary_yaml": (content("config.yaml", b"\xff\xfe\x00"), "codec can't decode"),
    "many_keys": (config(x={f"k{i}": i for i in range(3000)}), "must have at most 2000"),
    "list_name": (config(name=["a"]), "name must be a text"),
    "long_name": (config(name="n" * 5000), "name must be a text of at most 500"),
    "huge_seed": (config(seed=10**25), "seed must be smaller"),
    "infinite_key": (config(x=float("inf")), "config.yaml: x is inf"),
    "metrics_pipe": (kind("metrics.json", os.mkfifo), "metrics.json is not a regular file"),
    "config_pipe": (kind("config.yaml", os.mkfifo), "config.yaml is not a regular file"),
    "status_pipe": (kind("status.json", os.mkfifo), "status.json is not a regular file"),
    "metrics_device": (kind("metrics.json", lambda p: p.symlink_to("/dev/zero")), "not a regular file"),
    "metrics_folder": (kind("metrics.json", Path.mkdir), "not a regular file"),
    "metrics_sparse": (kind("metrics.json", sparse), "must have at most"),
    "metrics_loop": (kind("metrics.json", lambda p: p.symlink_to(p)), "metrics.json is missing"),
    "nan_score": (metrics(pixel_ap=float("nan")), "pixel_ap is nan and must be finite"),
    "infinite_score": (metrics(per_category__cable__pixel_ap=float("inf")), "per_category.cable.pixel_ap is inf"),
    "large_score": (metrics(oracle__pixel_ap=1e308), "oracle.pixel_ap is 1e+308 and must be finite"),
    "long_integer": (metrics(seconds__training=10**400), "seconds.training is 1000"),
    "negative_score": (metrics(image_auroc=-0.5), "image_auroc is -0.5 and must be null or in [0, 1]"),
    "text_score": (metrics(pro="high"), 'pro is "high" and must be null or in [0, 1]'),
    "true_score": (metrics(pixel_auroc=True), "pixel_auroc is true"),
    "large_forgetting": (metrics(forgetting__pixel_ap=7), "forgetting.pixel_ap is 7 and must be null or in [-1, 1]"),
    "many_categories": (metrics(per_category={f"c{i}": {} for i in range(5000)}), "at most 1000"),
    "many_tasks": (metrics(task_matrix__tasks=[["a"]] * 3000), "task_matrix.tasks has 3000 entries"),
    "empty_task": (metrics(task_matrix__tasks=[[]]), "task_matrix.tasks is"),
    "number_category": (metrics(task_matrix__tasks=[[1]]), "task_matrix.tasks.0 is 1 and must be a text"),
    "ragged_matrix": (metrics(task_matrix__pixel_ap=[[0.1] * 9]), "task_matrix.pixel_ap is"),
    "matrix_values": (metrics(task_matrix__pixel_ap=[["x"]]), 'task_matrix.pixel_ap.0 is "x"'),
    "category_number": (metrics(per_category__cable=3), "per_category.cable is 3 and must be a mapping"),
    "long_category": (metrics(per_category={"c" * 900: {}}), "a key of more than 500 characters"),
    "experts_text": (metrics(routing__experts="ab"), 'routing.experts is "ab" and must be a list'),
    "experts_lists": (metrics(routing__experts=[["a"]]), "routing.experts.0 is"),
    "negative_count": (metrics(routing__counts={"bottle": {"bottle": -1}}), "routing.counts.bottle.bottle is -1"),
    "epochs_number": (metrics(training__epochs=[[3]]), "training.epochs is"),
    "overrides_number": (metrics(overrides=[3]), "overrides.0 is 3 and must be a text"),
    "long_override": (metrics(overrides=["x" * 20_000]), "overrides.0 has 20000 characters"),
    "escape_status": (content("status.json", json.dumps({"status": "failed", "reason": ESCAPES})), r"\x1b]0;title\x07"),
}  # fmt: skip
"""Attacks on files without which a folder is no run, and a part of the reason for which the folder is left out."""

HARMLESS: dict[str, Attack] = {
    "mathtext": renamed_category(r"$\frac{"),
    "markup": renamed_category("<script>alert(1)</script>|`*[a](javascript:b)"),
    "formula": renamed_category("=HYPERLINK(0)"),
    "surrogate": metrics(per_category={"\ud800\u202e": {"pixel_ap": 0.5}}, task_matrix={"tasks": [["\ud800\u202e"]]}),
    "escapes": metrics(overrides=[f"+a={ESCAPES}\nb", r"b=$\frac{", "optimizer.lr=inf"]),
    "not_a_number": config(optimizer={"lr": "1e999"}),
    "other_seed": config(seed="zero"),
    "odd_parts": config(feature_sets=3, scenario=[], backbone=None, model="x", reported=[1], ensemble={}),
    "mixed_keys": config(x={1: 2, None: 3, 2.5: [{}, None]}),
    "no_matrix": metrics(task_matrix={}, routing={}, training={}, oracle={}, parameters=[], seconds=3, memory=None),
    "odd_epochs": metrics(training={"steps": "x", "epochs": [[{"loss": "x"}], [{}]], "skipped_steps": {"a": 1}}),
    "scores_pipe": kind("scores.csv", os.mkfifo),
    "scores_nan": content("scores.csv", "path,category,defect,label,image_score\na,bottle,b,0,nan\n"),
    "scores_large": content("scores.csv", "path,category,defect,label,image_score\na,bottle,b,0,1e308\n"),
    "scores_binary": content("scores.csv", b"path,category\n\xff\xfe,,,,\x00"),
    "image_folder": kind("pictures/examples_a.jpg", Path.mkdir),
    "image_sparse": kind("pictures/examples_a.jpg", sparse),
    "image_link": kind("pictures/examples_a.jpg", lambda p: p.symlink_to("/etc/hostname")),
    "image_pipe": kind("pictures/examples_a.jpg", os.mkfifo),
    "image_text": content("pictures/examples_a.jpg", "no image"),
    "defects_pipe": kind("pictures/defects.json", os.mkfifo),
    "defects_list": content("pictures/defects.json", '{"best": [1], "worst": {"separation": "x"}}'),
    "diagnostics_pipe": kind("diagnostics/task0.json", os.mkfifo),
    "diagnostics_odd": content("diagnostics/task0.json", '{"experts": {"a": {"tail": {"frequency": [[1e29], []]}}}}'),
    "manifest_pipe": kind("model/manifest.json", os.mkfifo),
}  # fmt: skip
"""Attacks that leave a run, whose odd parts are displayed as text or left out with a reason."""


def write_hostile(root: Path) -> Path:
    """Write one folder for each attack of :data:`REFUSED` below a folder, and return it."""
    for name, (attack, _) in REFUSED.items():
        attack(write_run(root, name))
    return root
