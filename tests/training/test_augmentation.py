"""Choice of the augmentation from training images."""

from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from helpers.program import TINY, run_program
from helpers.trees import write_mvtec_tree
from moleflow import MoLEFlow
from moleflow.data.transforms import AUGMENTATIONS
from moleflow.training.augmentation import (
    FEWEST_IMAGES,
    MOST_IMAGES,
    AugmentationChoice,
    best_augmentation,
    choose_augmentation,
    compare_augmentations,
)

TRANSPOSES = AUGMENTATIONS["all"]
FLIPS = set(AUGMENTATIONS["flips"])


def largest(patch_scores: Tensor) -> Tensor:
    return patch_scores.flatten(1).amax(1)


def grids(images: int, occurring: set[str], seed: int = 0) -> dict[str | None, Tensor]:
    """Return patch features (images, 3, 2, 4), far from the others for transposes that do not occur in the product."""
    draw = torch.Generator().manual_seed(seed)
    offsets = {None: 0.0} | {name: 0.0 if name in occurring else 9.0 for name in TRANSPOSES}
    return {name: torch.randn(images, 3, 2, 4, generator=draw) + offset for name, offset in offsets.items()}


@pytest.mark.parametrize("groups", [[0, 1, 2, 3, 4, 5], [0, 0, 1, 1, 2, 2]])
def test_comparison_equals_loops_over_images_and_patches(groups: list[int]) -> None:
    features = grids(6, set(TRANSPOSES))

    def score(image: Tensor, group: int, banks: list[Tensor]) -> float:
        others = [bank[i].reshape(-1, 4) for bank in banks for i in range(6) if groups[i] != group]
        return max(min(float((patch - other).norm()) for other in torch.cat(others)) for patch in image.reshape(-1, 4))

    def scores(images: Tensor, *names: str | None) -> list[float]:
        return [score(images[i], groups[i], [features[name] for name in names]) for i in range(6)]

    aurocs, reductions = compare_augmentations(features, torch.tensor(groups), largest, torch.Generator(), 1000)
    unaugmented = scores(features[None], None)
    for name in ("flips", "rotations", "all"):
        wins = [sum(a > b for a in scores(features[t], None) for b in unaugmented) for t in AUGMENTATIONS[name]]
        assert aurocs[name] == pytest.approx(max(wins) / len(unaugmented) ** 2)
        augmented = scores(features[None], None, *AUGMENTATIONS[name])
        assert reductions[name] == pytest.approx(1 - sum(augmented) / sum(unaugmented), abs=1e-5)


@pytest.mark.parametrize(
    ("occurring", "choice"),
    [
        (FLIPS, "flips"),
        (set(AUGMENTATIONS["rotations"]), "rotations"),
        (set(TRANSPOSES), "all"),
        ({"rotate_180"}, "none"),
    ],
)
def test_chosen_transforms_occur_in_the_product(occurring: set[str], choice: str) -> None:
    features = grids(20, occurring)
    aurocs, reductions = compare_augmentations(features, torch.arange(20), largest, torch.Generator())
    assert all((aurocs[name] < 0.8) == occurring.issuperset(AUGMENTATIONS[name]) for name in aurocs)
    assert best_augmentation(aurocs, reductions) == choice


def test_no_augmentation_without_a_reduction_of_the_scores() -> None:
    aurocs = {"flips": 0.5, "rotations": 0.8, "all": 0.81}
    assert best_augmentation(aurocs, {"flips": 0.09, "rotations": 0.0, "all": 0.3}) == "none"
    assert best_augmentation(aurocs, {"flips": 0.1, "rotations": 0.2, "all": 0.3}) == "rotations"


@pytest.mark.parametrize("count", [FEWEST_IMAGES - 1, MOST_IMAGES + 1])
def test_no_augmentation_with_few_or_many_images(count: int) -> None:
    images, nothing = [Path("image")] * count, cast(Any, None)
    choice = choose_augmentation(nothing, {}, images, torch.arange(count), largest, nothing)
    assert choice == AugmentationChoice("none", count)
    assert str(choice) == f"none ({count} training images; a choice needs {FEWEST_IMAGES} to {MOST_IMAGES})"


@pytest.mark.parametrize("model", ["patchcore", "moleflow"])
def test_run_trains_with_the_choices(model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("moleflow.training.augmentation.LARGEST_AUROC", 1.0)
    monkeypatch.setattr("moleflow.training.augmentation.SMALLEST_REDUCTION", 0.0)
    root = write_mvtec_tree(tmp_path / "tree", ("bottle", "screw"), train=FEWEST_IMAGES)
    tiny = [key for key in TINY if model == "moleflow" or not key.startswith("model.")]
    options = ["dataset=folder", f"dataset.root={root}", *tiny, f"model={model}", "epochs=1"]
    automatic = run_program(
        [*options, "augmentation=auto", "+per_category.screw.augmentation=flips"], tmp_path / "auto"
    )
    (name, choice), *others = automatic["augmentations"].items()
    assert (name, others) == ("bottle", [])
    assert choice["augmentation"] != "none"
    assert choice["compared_images"] == choice["training_images"] == FEWEST_IMAGES
    overrides = {name: record.overrides for name, record in MoLEFlow.load(tmp_path / "auto").experts.items()}
    assert overrides["bottle"]["augmentation"] == choice["augmentation"]
    assert overrides["screw"]["augmentation"] == "flips"
    explicit = [f"+per_category.bottle.augmentation={choice['augmentation']}", "+per_category.screw.augmentation=flips"]
    run_program([*options, *explicit], tmp_path / "explicit")
    assert (tmp_path / "auto" / "scores.csv").read_text() == (tmp_path / "explicit" / "scores.csv").read_text()
