"""Closed-form models fitted to augmented images: all orientations of an image count as one image."""

import numpy as np
import torch
from torch import Tensor

from moleflow.models.closed_form.mixture import MixtureModel
from moleflow.models.closed_form.patchcore import PatchCore
from moleflow.utils.random import generator

IMAGE_IDS = torch.arange(6) % 3  # three images and their flips


def patch_grids(count: int) -> Tensor:
    return torch.randn(count, 4, 5, 8, generator=generator(0, "turns"))


def test_patches_of_the_same_image_in_any_orientation_are_excluded() -> None:
    model, x = PatchCore(8, size=10**6), patch_grids(3)
    model.add_expert("a")
    model.fit("a", [x, x.flip(1)], IMAGE_IDS)  # each patch of a flipped image equals one of the image
    patches, image_of = x.flatten(0, 2).double().numpy(), np.repeat(np.arange(3), 20)
    distances = np.linalg.norm(patches[:, None] - patches, axis=2)
    distances[image_of[:, None] == image_of] = np.inf
    scores = model.patch_scores(x, "a", torch.arange(3)).flatten().double()
    torch.testing.assert_close(scores, torch.tensor(distances.min(1)), rtol=1e-4, atol=1e-4)


def test_metric_of_the_mixture_is_estimated_between_different_images() -> None:
    model, x = MixtureModel(8, size=10**6, blur=0.0), patch_grids(3)
    model.add_expert("a")
    model.fit("a", [x, x.flip(1)], IMAGE_IDS)
    unaugmented = MixtureModel(8, size=10**6, blur=0.0)
    unaugmented.add_expert("a")
    unaugmented.fit("a", [x])
    # Copies of patches change neither the whitening nor the nearest patches of other images.
    whitening, expected = (m.expert("a").get_buffer("whitening") for m in (model, unaugmented))
    torch.testing.assert_close(whitening @ whitening.T, expected @ expected.T, rtol=1e-3, atol=1e-3)
