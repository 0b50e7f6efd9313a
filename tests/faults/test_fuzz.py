"""Files of every kind with random damage: what is read is right, or refused in one message that names the file."""

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

from faults.scenarios import DAMAGES
from helpers.runs import write_run
from helpers.trees import fake_picture, write_visa_tree
from moleflow.data.check import check
from moleflow.data.layouts import visa_samples
from moleflow.data.read import picture_size, read_mask, read_picture
from moleflow.errors import UserError
from moleflow.features import FeatureCache
from moleflow.files import read_json, write_json
from moleflow.report.content import Options
from moleflow.report.page import build, html, markdown
from moleflow.report.runs import read_runs
from moleflow.training.run_folder import RESULTS, RunFolder

ROUNDS = 60


def mangled(content: bytes, dice: random.Random, reach: int) -> bytes:
    """Return the content with a few random changes within its first ``reach`` bytes."""
    changed = bytearray(content)
    for _ in range(dice.randint(1, 4)):
        place = dice.randrange(min(reach, len(changed)))
        if dice.random() < 0.7:
            changed[place] = dice.randrange(256)
        else:
            changed[place : place + dice.randrange(9)] = dice.randbytes(dice.randrange(9))
    return bytes(changed)


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "tiff"])
def test_picture_headers(tmp_path: Path, suffix: str) -> None:
    dice, path = random.Random(suffix), tmp_path / f"picture.{suffix}"
    fake_picture("bottle", "fuzz", (24, 20))[0].save(path)
    content = path.read_bytes()
    for _ in range(ROUNDS):
        path.write_bytes(mangled(content, dice, 80))
        for read in (read_picture, read_mask, picture_size):
            try:
                found = read(path)
            except UserError as error:
                assert path.name in str(error)  # noqa: PT017
            else:
                assert isinstance(found, tuple | Image.Image)


def test_visa_tables(tmp_path: Path) -> None:
    dice, root = random.Random(0), write_visa_tree(tmp_path, ("candle",), train=2, good=1, defect=1)
    table = root / "split_csv" / "1cls.csv"
    content = table.read_bytes()
    for _ in range(ROUNDS):
        table.write_bytes(mangled(content, dice, len(content)))
        for read in (lambda: visa_samples(root, ["candle"]), lambda: check(root)):
            try:
                read()
            except UserError as error:
                assert str(error)  # noqa: PT017


def test_results(tmp_path: Path) -> None:
    dice, folder = random.Random(0), RunFolder(tmp_path, {"epochs": 1})
    write_json(
        tmp_path / "metrics.json", {"status": "finished", "pixel_ap": 0.25, "per_category": {"bottle": [1, 2.5]}}
    )
    (tmp_path / "scores.csv").write_text("path,score\na.png,0.5\n")
    folder.set_status("finished")
    assert folder.finished()
    for name in (*RESULTS, "status.json"):
        path = tmp_path / name
        content = path.read_bytes()
        for _ in range(ROUNDS):
            changed = mangled(content, dice, len(content))
            path.write_bytes(changed)
            if name != "status.json":
                assert folder.finished() == (changed == content)
            elif folder.finished():  # white space
                assert read_json(path) is not None
        path.write_bytes(content)
    assert folder.finished()


ODD = (None, True, -1, 0, 1e999, 10**400, "x", "", [], {}, [None], {"a": None}, [[]], [1, "a"])
"""What a value of a JSON or YAML file may be replaced by."""


def changed(content: Any, dice: random.Random) -> Any:
    """Return the content with up to three values, at any depth, replaced or gone."""
    content = copy.deepcopy(content)
    for _ in range(dice.randint(1, 3)):
        places = list(_places(content))
        if places:
            within, key = dice.choice(places)
            if dice.random() < 0.2:
                del within[key]
            else:
                within[key] = dice.choice(ODD)
    return content


def _places(content: Any) -> Iterator[tuple[Any, Any]]:
    pairs = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in list(pairs):
        yield content, key
        yield from _places(value)


def test_reports_on_runs_with_any_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Figure, "savefig", lambda self, out, **how: out.write(b"<svg/>"))  # drawing takes the time
    damaged = write_run(tmp_path, "a/seed0")
    write_run(tmp_path, "b/seed0", {"loss.tail_weight": 1.0}, 0.6)
    metrics = json.loads((damaged / "metrics.json").read_text())
    config = yaml.safe_load((damaged / "config.yaml").read_text())
    for number in range(25):
        dice = random.Random(number)
        (damaged / "metrics.json").write_text(json.dumps(changed(metrics, dice) if number % 3 else metrics))
        (damaged / "config.yaml").write_text(yaml.safe_dump(changed(config, dice) if number % 3 != 1 else config))
        runs, faults = read_runs([tmp_path])
        assert len(runs) + len(faults) == 2
        sections = build(runs, faults, Options(), tmp_path)
        assert html(sections, "title", "")
        assert markdown(sections, "title", "")


def test_cache_entries(tmp_path: Path) -> None:
    dice, cache = random.Random(0), FeatureCache(tmp_path, {})
    features = torch.arange(24.0).view(2, 3, 4)
    cache.store("ab12", features)
    path = cache.path("ab12")
    content = path.read_bytes()
    for number in range(ROUNDS):
        kind = dice.choice([kind for kind in DAMAGES if kind != "missing"])
        path.write_bytes(DAMAGES[kind](content, dice) or b"" if number % 2 else mangled(content, dice, len(content)))
        found = cache.load("ab12")
        assert found is None or torch.equal(found, features)
    path.write_bytes(content)
    other = cache.path("ab34")
    other.write_bytes(content)
    assert cache.load("ab34") is None  # whole, but of another picture
