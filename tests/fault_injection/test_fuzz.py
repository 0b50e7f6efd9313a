"""Tests of readers on files of every kind with random damage: the content is right, or one error names the file."""

import copy
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from matplotlib.figure import Figure
from PIL import Image

from fault_injection.scenarios import DAMAGES
from helpers.layouts import read_samples
from helpers.runs import write_run
from helpers.trees import fake_image, write_visa_tree
from moleflow.data.image_io import image_size, read_image, read_mask
from moleflow.data.validation import check_dataset
from moleflow.features.cache import DiskFeatureCache
from moleflow.reports.document import ReportOptions
from moleflow.reports.page import build, html, markdown
from moleflow.runs.folder import RESULTS, RunFolder
from moleflow.runs.reader import read_runs
from moleflow.utils.errors import UserError
from moleflow.utils.io import read_json, write_json

ROUNDS = 60


def mutate_bytes(content: bytes, rng: random.Random, length: int) -> bytes:
    """Return the content with a few random changes within its first ``length`` bytes."""
    changed = bytearray(content)
    for _ in range(rng.randint(1, 4)):
        position = rng.randrange(min(length, len(changed)))
        if rng.random() < 0.7:
            changed[position] = rng.randrange(256)
        else:
            changed[position : position + rng.randrange(9)] = rng.randbytes(rng.randrange(9))
    return bytes(changed)


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "tiff"])
def test_damaged_image_header_is_an_error_with_the_path(tmp_path: Path, suffix: str) -> None:
    rng, path = random.Random(suffix), tmp_path / f"image.{suffix}"
    fake_image("bottle", "fuzz", (24, 20))[0].save(path)
    content = path.read_bytes()
    for _ in range(ROUNDS):
        path.write_bytes(mutate_bytes(content, rng, 80))
        for read in (read_image, read_mask, image_size):
            try:
                result = read(path)
            except UserError as error:
                assert path.name in str(error)  # noqa: PT017
            else:
                assert isinstance(result, tuple | Image.Image)


def test_damaged_visa_table_is_a_user_error(tmp_path: Path) -> None:
    rng, root = random.Random(0), write_visa_tree(tmp_path, ("candle",), train=2, good=1, defect=1)
    table = root / "split_csv" / "1cls.csv"
    content = table.read_bytes()
    for _ in range(ROUNDS):
        table.write_bytes(mutate_bytes(content, rng, len(content)))
        for read in (lambda: read_samples(root, ["candle"]), lambda: check_dataset(root)):
            try:
                read()
            except UserError as error:
                assert str(error)  # noqa: PT017


def test_run_with_a_changed_result_file_is_not_finished(tmp_path: Path) -> None:
    rng, folder = random.Random(0), RunFolder(tmp_path, {"epochs": 1})
    write_json(
        tmp_path / "metrics.json", {"status": "finished", "pixel_ap": 0.25, "per_category": {"bottle": [1, 2.5]}}
    )
    (tmp_path / "scores.csv").write_text("path,score\na.png,0.5\n")
    folder.set_status("finished")
    assert folder.is_finished()
    for name in (*RESULTS, "status.json"):
        path = tmp_path / name
        content = path.read_bytes()
        for _ in range(ROUNDS):
            changed = mutate_bytes(content, rng, len(content))
            path.write_bytes(changed)
            if name != "status.json":
                assert folder.is_finished() == (changed == content)
            elif folder.is_finished():  # only white space changed
                assert read_json(path) is not None
        path.write_bytes(content)
    assert folder.is_finished()


UNUSUAL_VALUES = (None, True, -1, 0, 1e999, 10**400, "x", "", [], {}, [None], {"a": None}, [[]], [1, "a"])
"""Replacements for values of JSON and YAML files."""


def mutate_values(content: Any, rng: random.Random) -> Any:
    """Return the content with up to three values, at any depth, replaced or removed."""
    content = copy.deepcopy(content)
    for _ in range(rng.randint(1, 3)):
        positions = list(_positions(content))
        if positions:
            parent, key = rng.choice(positions)
            if rng.random() < 0.2:
                del parent[key]
            else:
                parent[key] = rng.choice(UNUSUAL_VALUES)
    return content


def _positions(content: Any) -> Iterator[tuple[Any, Any]]:
    pairs = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in list(pairs):
        yield content, key
        yield from _positions(value)


def test_report_accepts_runs_with_any_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Figure, "savefig", lambda self, out, **options: out.write(b"<svg/>"))  # drawing takes long
    damaged = write_run(tmp_path, "a/seed0")
    write_run(tmp_path, "b/seed0", {"loss.tail_weight": 1.0}, 0.6)
    metrics = json.loads((damaged / "metrics.json").read_text())
    config = yaml.safe_load((damaged / "config.yaml").read_text())
    for number in range(25):
        rng = random.Random(number)
        (damaged / "metrics.json").write_text(json.dumps(mutate_values(metrics, rng) if number % 3 else metrics))
        (damaged / "config.yaml").write_text(yaml.safe_dump(mutate_values(config, rng) if number % 3 != 1 else config))
        runs, faults = read_runs([tmp_path])
        assert len(runs) + len(faults) == 2
        sections = build(runs, faults, ReportOptions(), tmp_path)
        assert html(sections, "title", "")
        assert markdown(sections, "title", "")


def test_damaged_cache_entry_is_not_loaded(tmp_path: Path) -> None:
    rng, cache = random.Random(0), DiskFeatureCache(tmp_path, {})
    features = torch.arange(24.0).view(2, 3, 4)
    cache.store("ab12", features)
    path = cache.path("ab12")
    content = path.read_bytes()
    for number in range(ROUNDS):
        kind = rng.choice([kind for kind in DAMAGES if kind != "missing"])
        damaged = DAMAGES[kind](content, rng) or b"" if number % 2 else mutate_bytes(content, rng, len(content))
        path.write_bytes(damaged)
        loaded = cache.load("ab12")
        assert loaded is None or torch.equal(loaded, features)
    path.write_bytes(content)
    other = cache.path("ab34")
    other.write_bytes(content)
    assert cache.load("ab34") is None  # undamaged, but of another image
