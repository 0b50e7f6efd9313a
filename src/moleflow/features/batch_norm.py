"""Batch normalizations of a frozen network, folded into the convolutions before them."""

from collections.abc import Callable, Collection

import torch
from torch import Tensor, nn


def fold_batch_norms(model: nn.Module, forward: Callable[[], object], kept: Collection[str] = ()) -> list[str]:
    """Fold each batch normalization whose input is the output of a convolution into that convolution.

    In evaluation mode a batch normalization is an affine map of each channel, so the convolution's weights and bias can
    contain it (Jacob et al., 2018, "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
    Inference", section 3.2). The outputs of the network then differ by rounding only, and one pass over each feature
    map less is needed. timm's normalizations that contain an activation are replaced by that activation.

    The pairs are those of a forward pass. The caller must compare the outputs: a network that uses the output of such a
    convolution in another place as well, or computes with other weights than its parameters, cannot be folded.

    Args:
        model: The network in evaluation mode; changed in place.
        forward: Makes a forward pass of the network, or of its first part; only modules of this part are folded.
        kept: Names of modules that must remain, because their output is used.

    Returns:
        The names of the folded convolutions, in the order of the forward pass.
    """
    names = {module: name for name, module in model.named_modules()}
    folded = []
    for norm, convolution in _pairs(model, forward).items():
        if names[convolution] in kept or any(name.startswith(f"{names[norm]}.") for name in kept):
            continue
        _fold(convolution, norm)
        model.set_submodule(names[norm], getattr(norm, "act", nn.Identity()))
        folded.append(names[convolution])
    return folded


@torch.no_grad()
def _pairs(model: nn.Module, forward: Callable[[], object]) -> dict[nn.BatchNorm2d, nn.Conv2d]:
    """Return the convolution before each batch normalization, where both are called once and in turn."""
    outputs: dict[int, tuple[nn.Conv2d, Tensor]] = {}  # with the tensor, so that no other one gets its id
    calls: dict[nn.Module, int] = {}
    pairs: dict[nn.BatchNorm2d, nn.Conv2d] = {}

    def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        calls[module] = calls.get(module, 0) + 1
        if isinstance(module, nn.Conv2d):
            outputs[id(output)] = module, output
        elif isinstance(module, nn.BatchNorm2d) and id(inputs[0]) in outputs:
            pairs[module], _ = outputs[id(inputs[0])]

    hooks = [
        module.register_forward_hook(hook)
        for module in model.modules()
        if isinstance(module, (nn.Conv2d, nn.BatchNorm2d))
    ]
    try:
        forward()
    finally:
        for handle in hooks:
            handle.remove()
    return {norm: convolution for norm, convolution in pairs.items() if calls[norm] == calls[convolution] == 1}


@torch.no_grad()
def _fold(convolution: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
    """Fold a batch normalization into the weights and the bias of a convolution."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    # In float64: the result is then the float32 number nearest to the product.
    scale = (norm.running_var.double() + norm.eps).rsqrt()
    shift = -norm.running_mean.double() * scale
    if norm.affine:
        scale, shift = scale * norm.weight.double(), shift * norm.weight.double() + norm.bias.double()
    if convolution.bias is not None:
        shift = shift + convolution.bias.double() * scale
    weight = convolution.weight
    convolution.weight = nn.Parameter((weight.double() * scale[:, None, None, None]).to(weight.dtype), False)
    convolution.bias = nn.Parameter(shift.to(weight.dtype), False)
