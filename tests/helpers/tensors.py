"""Random patch grids and random perturbations of parameters."""

import torch
from torch import Tensor, nn

from moleflow.utils.random import generator


def random_grids(count: int = 2, height: int = 4, width: int = 5, dim: int = 8, seed: int = 0) -> Tensor:
    """Return standard normal patch grids (count, height, width, dim)."""
    return torch.randn(count, height, width, dim, generator=generator(seed, "random grids"))


def perturb_parameters(module: nn.Module, scale: float = 0.2, seed: int = 0) -> None:
    """Add normal noise to every parameter.

    No term of the module is then zero by initialization. Scalars are only increased, because gates that are clamped at
    zero have no gradient below it.
    """
    rng = generator(seed, "perturbation")
    with torch.no_grad():
        for parameter in module.parameters():
            noise = scale * torch.randn(parameter.shape, generator=rng)
            parameter += noise if parameter.ndim else noise.abs()
