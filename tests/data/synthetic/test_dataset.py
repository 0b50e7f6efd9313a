"""The synthetic data set: its layout, reproducibility, atomic writing and exact masks."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from helpers.layouts import read_samples
from moleflow.data.layouts.detection import layout_of
from moleflow.data.synthetic import dataset
from moleflow.data.synthetic.dataset import CATEGORIES, draw_image, write_synthetic_dataset
from moleflow.data.synthetic.defects import DEFECTS
from moleflow.utils.errors import UserError

SMALL = {"size": 48, "train": 2, "test_good": 1, "test_defect": 5}
CASES = [(category, defect) for category, defects in DEFECTS.items() for defect in defects]


def contents(root: Path) -> dict[Path, bytes]:
    return {path.relative_to(root): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data") / "synthetic"
    write_synthetic_dataset(root, **SMALL)
    return root


def test_it_has_the_layout_of_mvtec(root: Path) -> None:
    assert layout_of(root).categories() == tuple(sorted(CATEGORIES))
    samples = read_samples(root, CATEGORIES)  # checks pairs and sizes of images and masks
    assert len(samples) == len(CATEGORIES) * (2 + 1 + 5)
    assert len({sample.defect for sample in samples} - {"good"}) >= 4
    assert all(sample.mask for sample in samples if sample.label)
    assert len({sample.path.read_bytes() for sample in samples}) == len(samples)


def test_images_depend_on_the_seed_alone(root: Path, tmp_path: Path) -> None:
    write_synthetic_dataset(tmp_path / "same", **SMALL)
    write_synthetic_dataset(tmp_path / "other", seed=1, **SMALL)
    first, same, other = contents(root), contents(tmp_path / "same"), contents(tmp_path / "other")
    assert first == same
    assert first.keys() == other.keys()
    assert not any(first[path] == other[path] for path in first if path.suffix == ".png")


@pytest.mark.parametrize(
    ("category", "defect", "mean_color", "mask_pixels"),
    [
        ("fabric", "good", [80.21, 86.38, 98.71], 0),
        ("fabric", "contamination", [88.92, 93.45, 106.1], 184),
        ("fabric", "deformed", [90.65, 97.7, 111.75], 406),
        ("fabric", "hole", [85.02, 91.46, 104.33], 101),
        ("fabric", "stain", [82.22, 87.99, 100.16], 220),
        ("wood", "good", [188.56, 135.96, 80.96], 0),
        ("wood", "contamination", [177.02, 128.9, 78.74], 218),
        ("wood", "hole", [176.46, 127.13, 75.6], 207),
        ("wood", "scratch", [187.77, 135.95, 81.49], 109),
        ("wood", "stain", [190.95, 137.55, 82.25], 288),
        ("gear", "good", [58.51, 61.67, 68.05], 0),
        ("gear", "deformed", [61.49, 64.9, 71.78], 116),
        ("gear", "missing", [56.17, 59.3, 65.65], 89),
        ("gear", "scratch", [57.42, 60.47, 66.62], 52),
        ("gear", "stain", [62.9, 64.86, 70.8], 130),
        ("biscuit", "good", [106.93, 122.98, 97.93], 0),
        ("biscuit", "contamination", [107.4, 122.92, 99.26], 153),
        ("biscuit", "crack", [111.47, 123.64, 96.29], 82),
        ("biscuit", "missing", [106.28, 121.21, 95.87], 92),
        ("biscuit", "stain", [96.33, 111.37, 88.92], 185),
    ],
)
def test_images_of_a_known_seed(category: str, defect: str, mean_color: list[float], mask_pixels: int) -> None:
    """Recorded results are valid only for these images; the tolerance allows for other versions of numpy."""
    image, mask = draw_image(category, defect, 0, split="test", seed=0, size=64)
    assert np.asarray(image, float).mean((0, 1)).tolist() == pytest.approx(mean_color, abs=0.02)
    assert (0 if mask is None else int((np.asarray(mask) > 0).sum())) == pytest.approx(mask_pixels, abs=2)


def test_existing_dataset_is_not_written_again(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dataset, "draw_image", lambda *_, **__: pytest.fail("an image was drawn"))
    write_synthetic_dataset(root, **SMALL)
    assert [path.name for path in root.parent.iterdir()] == [root.name]


def test_interrupted_write_leaves_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def interrupt(*place: Any, **settings: Any) -> Any:
        calls.append(place)
        if len(calls) == 12:
            raise KeyboardInterrupt
        return draw_image(*place, **settings)

    monkeypatch.setattr(dataset, "draw_image", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_synthetic_dataset(tmp_path / "synthetic", **SMALL)
    assert list(tmp_path.iterdir()) == []


def test_two_concurrent_writers_succeed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, write_category = tmp_path / "synthetic", dataset._write_category

    def write_after_another_process(*arguments: Any) -> None:
        monkeypatch.setattr(dataset, "_write_category", write_category)
        if not root.exists():
            write_synthetic_dataset(root, **SMALL)
        write_category(*arguments)

    monkeypatch.setattr(dataset, "_write_category", write_after_another_process)
    write_synthetic_dataset(root, **SMALL)
    assert json.loads((root / dataset.MARKER).read_text())["size"] == 48
    assert list(tmp_path.iterdir()) == [root]


def test_other_files_are_not_touched(root: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("text")
    with pytest.raises(UserError, match="has other files"):
        write_synthetic_dataset(tmp_path, **SMALL)
    with pytest.raises(UserError, match="has a synthetic data set with other settings"):
        write_synthetic_dataset(root, **{**SMALL, "train": 3})
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"size": 8}, r"dataset\.size=8 must be at least 32"),
        ({"test_good": 0}, r"dataset\.test_good=0 must be at least 1"),
    ],
)
def test_too_small_setting_raises(settings: dict[str, int], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        write_synthetic_dataset(tmp_path / "new", **settings)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("category", "defect"), CASES)
def test_masks_are_exact(category: str, defect: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without camera noise, an image differs from the same image without defect on the mask, and only there."""
    monkeypatch.setattr(dataset, "_CAMERA_NOISE", 0.0)
    for number in range(3):
        settings: dict[str, Any] = {"split": "test", "seed": 0, "size": 96}
        image, mask = draw_image(category, defect, number, **settings)
        assert mask is not None
        with monkeypatch.context() as patched:
            patched.setattr(dataset, "DEFECTS", {category: {defect: lambda scene, rng: scene}})
            patched.setattr(dataset, "_MIN_AREA", -1.0)  # accept an unchanged scene
            clean, empty = draw_image(category, defect, number, **settings)
        change = np.abs(np.asarray(image, float) - np.asarray(clean, float)).max(axis=-1)
        marked = np.asarray(mask) > 0
        assert not np.asarray(empty).any()
        assert 0.004 < marked.mean() < 0.2
        assert (change[marked] > 0.05 * 255).mean() > 0.75  # the others are closed gaps
        assert (change[~marked] > 0.065 * 255).mean() < 0.002  # these are too small to be marked


def test_variation_within_a_category_is_smaller_than_between_categories() -> None:
    def thumbnail(category: str, number: int) -> Any:
        image, _ = draw_image(category, "good", number, split="train", seed=0, size=64)
        return np.asarray(image.resize((4, 4), Image.Resampling.BOX), float).ravel()

    thumbnails = np.array([[thumbnail(category, number) for number in range(6)] for category in CATEGORIES])
    within = thumbnails.std(axis=1).mean()
    means = thumbnails.mean(axis=1)
    between = min(np.abs(a - b).mean() for i, a in enumerate(means) for b in means[:i])
    assert within > 0.5
    assert between > 4 * within
