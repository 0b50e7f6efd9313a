"""Choice of an expert's augmentation from its training images, for ``augmentation=auto``.

An augmentation is allowed if its flips and rotations occur in the product: to a memory bank of other training images, a
transformed training image then looks like a new image. Of the allowed augmentations, the one is chosen whose
transformed images lower the scores of new images most.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from moleflow.data.transforms import AUGMENTATIONS
from moleflow.detector.feature_set import FeatureSet
from moleflow.detector.types import Overrides
from moleflow.metrics.ranking import auroc
from moleflow.models.closed_form.patchcore import PatchCore

AUTO = "auto"
"""Value of ``augmentation`` for a choice by the training images."""

FEWEST_IMAGES, MOST_IMAGES = 8, 64
"""Training images of an expert between which its augmentation is chosen; outside there is none.

With fewer the comparison is noise. With more, the images cover the orientations of the product, and copies take the
place of other patches in the memory bank: on realad, 320 images of screw have a lower image AUROC with rotations.
"""

COMPARED_IMAGES = 24
"""Training images that are compared at most."""

LARGEST_AUROC = 0.8
"""Largest AUROC between transformed and unaugmented training images of an allowed augmentation.

Chosen on cookie and screw of realad: where the transforms occur it is 0.4 to 0.9, and elsewhere 0.95 to 1.
"""

SMALLEST_REDUCTION = 0.1
"""Smallest share by which an allowed augmentation lowers the mean score of new images.

Chosen on cookie (flips, 0.06, no gain) and screw (rotations, 0.14, a gain) of realad.
"""

# Patches of all compared images under one transform. They are drawn uniformly: a coreset is selected to be near every
# training image, also to the one that is then left out, so that new images would seem farther away than those.
_PATCHES = 4000


@dataclass(frozen=True)
class AugmentationChoice:
    """Augmentation of an expert, and the values by which it was chosen.

    Attributes:
        augmentation: A key of :data:`moleflow.data.transforms.AUGMENTATIONS`.
        training_images: Number of training images of the expert.
        compared_images: Number of these that were compared; 0 if there are too few or too many for a choice.
        auroc: By augmentation, the largest AUROC of one of its flips and rotations: between the scores of transformed
            and of unaugmented training images.
        reduction: By augmentation, the share by which it lowers the mean score of new images.
    """

    augmentation: str
    training_images: int
    compared_images: int = 0
    auroc: Mapping[str, float] = field(default_factory=dict)
    reduction: Mapping[str, float] = field(default_factory=dict)

    def __str__(self) -> str:
        """Return the choice and its reason in one clause."""
        if not self.compared_images:
            return (
                f"{self.augmentation} ({self.training_images} training images; a choice needs {FEWEST_IMAGES} to "
                f"{MOST_IMAGES})"
            )
        values = (f"{name} {self.auroc[name]:.2f} and {self.reduction[name]:.1%}" for name in self.auroc)
        return f"{self.augmentation} (AUROC of transformed images and reduction of scores: {', '.join(values)})"


@torch.no_grad()
def choose_augmentation(
    feature_set: FeatureSet,
    overrides: Overrides,
    images: Sequence[Path],
    groups: Tensor,
    image_scores: Callable[[Tensor], Tensor],
    draw: torch.Generator,
) -> AugmentationChoice:
    """Choose the augmentation of an expert.

    Args:
        feature_set: The feature set in which the images are compared.
        overrides: The overrides of the expert.
        images: The N training images of the expert.
        groups: Index (N,) of each image's group; images of one group are not compared with each other.
        image_scores: Returns image scores (B,) of patch scores (B, h, w).
        draw: Source of the choice of images and patches.
    """
    count = len(images)
    if len(set(groups.tolist())) < FEWEST_IMAGES or count > MOST_IMAGES:
        return AugmentationChoice("none", count)
    selected = torch.randperm(count, generator=draw)[:COMPARED_IMAGES]
    paths = [images[i] for i in selected.tolist()]
    grids = {
        transpose: feature_set.extractor(overrides, transpose).features(paths).to(feature_set.device)
        for transpose in (None, *AUGMENTATIONS["all"])
    }
    aurocs, reductions = compare_augmentations(grids, groups[selected], image_scores, draw)
    return AugmentationChoice(best_augmentation(aurocs, reductions), count, len(paths), aurocs, reductions)


def compare_augmentations(
    grids: Mapping[str | None, Tensor],
    groups: Tensor,
    image_scores: Callable[[Tensor], Tensor],
    draw: torch.Generator,
    patches: int = _PATCHES,
) -> tuple[dict[str, float], dict[str, float]]:
    """Compare transformed training images with unaugmented ones.

    The score of an image is that of its distances to the nearest patches of images of other groups.

    Args:
        grids: Patch features (N, h, w, D) of the training images by flip or rotation; None for the unaugmented ones.
        groups: Index (N,) of each image's group.
        image_scores: Returns image scores (B,) of patch scores (B, h, w).
        draw: Source of the patches that are compared with.
        patches: Number of patches of all images under one transform that are compared with.

    Returns:
        By augmentation, the largest AUROC of one of its flips and rotations, between transformed and unaugmented images
        and to a memory bank of unaugmented ones; and the share by which the mean score of the unaugmented images is
        lower if the memory bank has the transformed images too.
    """
    bank = PatchCore(grids[None].shape[-1], patches, "random", seed=draw.initial_seed() % 2**31)
    for transpose, grid in grids.items():
        bank.add_expert(str(transpose))
        bank.fit(str(transpose), [grid], groups)

    def distances(grid: Tensor, transpose: str | None) -> Tensor:
        parts = zip(torch.split(grid, 1), torch.split(groups, 1), strict=True)
        return torch.cat([bank.patch_scores(image, str(transpose), group) for image, group in parts]).cpu()

    plain = {transpose: distances(grids[None], transpose) for transpose in grids}
    unaugmented = image_scores(plain[None])
    labels = torch.tensor([0, 1]).repeat_interleave(len(unaugmented))
    by_transpose = {
        transpose: auroc(torch.cat((unaugmented, image_scores(distances(grid, None)))), labels)
        for transpose, grid in grids.items()
        if transpose is not None
    }
    aurocs, reductions = {}, {}
    for name, transposes in AUGMENTATIONS.items():
        if transposes:
            aurocs[name] = max(by_transpose[each] for each in transposes)
            augmented = image_scores(torch.stack([plain[each] for each in (None, *transposes)]).amin(0))
            reductions[name] = 1 - float(augmented.mean() / unaugmented.mean())
    return aurocs, reductions


def best_augmentation(aurocs: Mapping[str, float], reductions: Mapping[str, float]) -> str:
    """Return the allowed augmentation with the largest reduction; ``none`` without one.

    Args:
        aurocs: Largest AUROC of the transformed images by augmentation.
        reductions: Reduction of the scores of new images by augmentation.
    """
    allowed = {
        name: reduction
        for name, reduction in reductions.items()
        if reduction >= SMALLEST_REDUCTION and aurocs[name] <= LARGEST_AUROC
    }
    return max(allowed, key=allowed.__getitem__, default="none")
