"""Log-determinants of adapter and mixer, which the training loss omits.

Adapter and mixer precede the coupling blocks, and the likelihood omits their Jacobians, as in the first implementation
of the method. A contraction learned there decreases the negative log-likelihood of all images, normal or anomalous,
training or test. The functions below measure this contribution, so that it can be separated from an improvement of the
density.
"""

import torch
from torch import Tensor

from moleflow.models.flow.expert_flow import ExpertFlow
from moleflow.models.flow.input_adapters import AffineNormAdapter, SoftNormAdapter
from moleflow.models.flow.spatial_mixer import SpatialMixer


@torch.no_grad()
def omitted_log_determinant(flow: ExpertFlow, name: str, grid: tuple[int, int]) -> float | None:
    """Return the trainable log-determinant that the likelihood omits.

    It is that of one patch. Constants that training does not change (those of layer normalization and of the blur) are
    excluded.

    Args:
        flow: The flow.
        name: Name of the expert.
        grid: Height and width of the patch grid.

    Returns:
        Nats per patch; None if it differs between images (for a mixer with an MLP and for ``model.adapter=soft_norm``).
    """
    adapter, mixer = flow.expert(name).adapter, flow.mixer_of(name)
    total = 0.0
    if isinstance(adapter, SoftNormAdapter):
        return None
    if isinstance(adapter, AffineNormAdapter):
        total += float(adapter.gamma().double().log().sum())
    if isinstance(mixer, SpatialMixer):
        kernels = mixer.kernels()
        if kernels is None:
            return None
        total += float(convolution_log_determinant(kernels, grid).sum())
    return total


def convolution_log_determinant(kernels: Tensor, grid: tuple[int, int]) -> Tensor:
    """Return the log-determinant per patch of depthwise convolutions.

    It is the mean of the log-magnitude of the transfer function, which is exact for circular padding. For zero padding,
    which the mixer has, it is the limit of the exact value for large grids; the contribution of the border is omitted,
    and no (H W) x (H W) matrix per channel is required.

    Reference: Szego's theorem; Gray, "Toeplitz and Circulant Matrices: A Review", 2006, theorem 5.2.

    Args:
        kernels: (C, k, k), k odd.
        grid: Height and width (H, W), each at least k.

    Returns:
        (C,) float64, in nats per patch; -inf if the transfer function is zero at a frequency.
    """
    transfer: Tensor = torch.fft.fft2(kernels.double(), s=grid)
    return transfer.abs().log().mean((-2, -1))
