"""Training pictures as they might also lie: mirrored and turned by right angles.

For products that may lie any way. A way in which a good product never lies is learned as normal too, so a product that
is turned over or the wrong way round is no defect any more.
"""

from typing import Any

from PIL import Image
from torch import Tensor

from moleflow.data.transforms import PictureTransform

_FLIPS = ("flip_left_right", "flip_top_bottom", "rotate_180")
_ROTATIONS = ("rotate_90", "rotate_180", "rotate_270")
AUGMENTATIONS: dict[str, tuple[str, ...]] = {
    "none": (),
    "flips": _FLIPS,
    "rotations": _ROTATIONS,
    "all": tuple(turn.name.lower() for turn in Image.Transpose),
}
"""By the name of a choice, how pictures are learned besides as they lie: names of :class:`PIL.Image.Transpose`."""


class TurnedTransform:
    """What the backbone sees of a picture that is turned first.

    Args:
        transform: What happens to the turned picture.
        turn: Name of a :class:`PIL.Image.Transpose`, in lower case.
    """

    def __init__(self, transform: PictureTransform, turn: str) -> None:
        self.transform = transform
        self.turn = turn

    def __call__(self, picture: Image.Image) -> Tensor:
        """Return the turned picture as a float32 tensor (3, H, W), normalised."""
        return self.transform(picture.transpose(Image.Transpose[self.turn.upper()]))

    def spec(self) -> dict[str, Any]:
        """Return everything that the tensor depends on besides the picture, ready for JSON."""
        return {**self.transform.spec(), "turn": self.turn}
