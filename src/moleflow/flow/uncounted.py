"""What training can gain without learning anything: the part of the log-determinant that the flow does not count.

Adapter and mixer act before the coupling blocks, and their Jacobians are left out of the likelihood, as in the method's
first implementation. Whatever they learn to contract lowers the negative log-likelihood of every picture, normal or
not, new or known. Counted here, so that the gain can be told from the learning.
"""

import torch
from torch import Tensor

from moleflow.flow.adapters import SoftNormAdapter, WhiteningAdapter
from moleflow.flow.context import SpatialMixer
from moleflow.flow.expert_flow import ExpertFlow


@torch.no_grad()
def uncounted_log_determinant(flow: ExpertFlow, name: str, grid: tuple[int, int]) -> float | None:
    """Return the log-determinant of one patch that training can change and the likelihood does not count.

    Constants that no training moves (of layer norm, of a fixed blur) are left out.

    Args:
        flow: The flow.
        name: The expert.
        grid: Height and width of the patch grid.

    Returns:
        Nats a patch; None where it differs from picture to picture (a mixer with an MLP, the adapter ``soft_norm``).
    """
    adapter, mixer = flow.expert(name).adapter, flow.mixer_of(name)
    total = 0.0
    if isinstance(adapter, SoftNormAdapter):
        return None
    if isinstance(adapter, WhiteningAdapter):
        total += float(adapter.gamma().double().log().sum())
    if isinstance(mixer, SpatialMixer):
        kernels = mixer.kernels()
        if kernels is None:
            return None
        total += float(convolution_log_determinant(kernels, grid).sum())
    return total


def convolution_log_determinant(kernels: Tensor, grid: tuple[int, int]) -> Tensor:
    """Return log |det| a patch of depthwise convolutions, from their transfer functions.

    Exact where the grid wraps around. With zero padding, as the mixer has it, it is what the exact value tends to as
    the grid grows (Szego's theorem; Gray, "Toeplitz and Circulant Matrices: A Review", 2006, theorem 5.2): the
    border's share is left out, and no matrix of (H W)^2 numbers a channel is needed.

    Args:
        kernels: (C, k, k), k odd.
        grid: Height and width H, W, each at least k.

    Returns:
        (C,) float64, in nats a patch; -inf where a frequency is wiped out.
    """
    transfer: Tensor = torch.fft.fft2(kernels.double(), s=grid)
    return transfer.abs().log().mean((-2, -1))
