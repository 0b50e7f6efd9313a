import json

import numpy as np
import pytest
from PIL import Image

from moleflow.data import demo
from moleflow.data.demo import CATEGORIES, draw, write_demo
from moleflow.data.demo_defects import DEFECTS
from moleflow.data.layouts import available_categories, mvtec_samples
from moleflow.errors import UserError

SMALL = {"size": 48, "train": 2, "test_good": 1, "test_defect": 5}
KINDS = [(category, kind) for category, kinds in DEFECTS.items() for kind in kinds]


def contents(root):
    return {path.relative_to(root): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    root = tmp_path_factory.mktemp("data") / "demo"
    write_demo(root, **SMALL)
    return root


def test_it_is_a_complete_mvtec_tree(tree):
    assert available_categories(tree) == tuple(sorted(CATEGORIES))
    samples = mvtec_samples(tree, CATEGORIES)  # checks pairs and sizes
    assert len(samples) == len(CATEGORIES) * (2 + 1 + 5)
    assert len({sample.defect for sample in samples} - {"good"}) >= 4
    assert all(sample.mask for sample in samples if sample.label)
    assert len({sample.path.read_bytes() for sample in samples}) == len(samples)


def test_the_same_seed_draws_the_same_and_another_draws_others(tree, tmp_path):
    write_demo(tmp_path / "again", **SMALL)
    write_demo(tmp_path / "other", seed=1, **SMALL)
    mine, again, other = contents(tree), contents(tmp_path / "again"), contents(tmp_path / "other")
    assert mine == again
    assert mine.keys() == other.keys()
    assert not any(mine[path] == other[path] for path in mine if path.suffix == ".png")


def test_it_is_written_once_and_leaves_nothing_beside(tree, monkeypatch):
    monkeypatch.setattr(demo, "draw", lambda *a, **k: pytest.fail("drawn again"))
    write_demo(tree, **SMALL)
    assert [path.name for path in tree.parent.iterdir()] == [tree.name]


def test_a_write_that_was_stopped_leaves_no_tree(tmp_path, monkeypatch):
    drawn = []

    def stop(*place, **settings):
        drawn.append(place)
        if len(drawn) == 12:
            raise KeyboardInterrupt
        return draw(*place, **settings)

    monkeypatch.setattr(demo, "draw", stop)
    with pytest.raises(KeyboardInterrupt):
        write_demo(tmp_path / "demo", **SMALL)
    assert list(tmp_path.iterdir()) == []


def test_two_writers_at_once_agree(tmp_path, monkeypatch):
    root, write_category = tmp_path / "demo", demo._write_category

    def overtaken(*arguments):
        monkeypatch.setattr(demo, "_write_category", write_category)
        if not root.exists():
            write_demo(root, **SMALL)
        write_category(*arguments)

    monkeypatch.setattr(demo, "_write_category", overtaken)
    write_demo(root, **SMALL)
    assert json.loads((root / demo.MARKER).read_text())["size"] == 48
    assert list(tmp_path.iterdir()) == [root]


def test_nothing_of_the_users_is_touched(tree, tmp_path):
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(UserError, match="holds something that is not the demo"):
        write_demo(tmp_path, **SMALL)
    with pytest.raises(UserError, match="demo of other settings"):
        write_demo(tree, **{**SMALL, "train": 3})
    with pytest.raises(UserError, match="size has to be 32 or more"):
        write_demo(tmp_path / "new", size=8)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize(("category", "kind"), KINDS)
def test_masks_are_exact(category, kind, monkeypatch):
    """Without camera noise, the picture differs from the same picture without defect just where the mask says."""
    monkeypatch.setattr(demo, "_CAMERA_NOISE", 0.0)
    for number in range(3):
        place = {"split": "test", "seed": 0, "size": 96}
        picture, mask = draw(category, kind, number, **place)
        assert mask is not None
        with monkeypatch.context() as patched:
            patched.setattr(demo, "DEFECTS", {category: {kind: lambda scene, rng: scene}})
            patched.setattr(demo, "_SPECK", -1.0)  # accept the unchanged scene
            clean, nothing = draw(category, kind, number, **place)
        change = np.abs(np.asarray(picture, float) - np.asarray(clean, float)).max(axis=-1)
        marked = np.asarray(mask) > 0
        assert not np.asarray(nothing).any()
        assert 0.004 < marked.mean() < 0.2
        assert (change[marked] > 0.05 * 255).mean() > 0.75  # the rest are closed gaps
        assert (change[~marked] > 0.065 * 255).mean() < 0.002  # the rest are specks


def test_normal_pictures_vary_but_less_than_categories_differ():
    def look(category, number):
        picture, _ = draw(category, "good", number, split="train", seed=0, size=64)
        return np.asarray(picture.resize((4, 4), Image.Resampling.BOX), float).ravel()

    flat = np.array([[look(category, number) for number in range(6)] for category in CATEGORIES])
    within = flat.std(axis=1).mean()
    means = flat.mean(axis=1)
    between = min(np.abs(a - b).mean() for i, a in enumerate(means) for b in means[:i])
    assert within > 0.5
    assert between > 4 * within
