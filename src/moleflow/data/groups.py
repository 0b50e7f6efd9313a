"""Groups of images from one source, such as a photograph, part, shift or camera."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from moleflow.data.samples import Sample
from moleflow.utils.errors import UserError

FOLDER_DEPTH = 3
"""Folders of a normal training image below the root, in the layout of MVTec AD: CATEGORY/train/good."""


@dataclass(frozen=True)
class ImageGroups:
    r"""Assignment of training images to groups by the names of their files or folders.

    Attributes:
        rule: A regular expression, searched in the path of an image relative to the root, with ``/`` as separator.
            Images whose capture groups are equal are one group; without capture groups, images of equal matches. Or a
            number n of folders: ``CATEGORY/train/good/F1/.../Fn/000.png`` is in the group ``F1/.../Fn``.

    Raises:
        UserError: If the rule is neither a valid regular expression nor a number of at least 1.

    Examples:
        >>> ImageGroups(r"part(\d+)_")("screw/train/good/part12_003.png")
        "('12',)"
        >>> ImageGroups(1)("screw/train/good/monday/003.png")
        'monday'
    """

    rule: str | int

    def __post_init__(self) -> None:
        """Check the rule."""
        if isinstance(self.rule, bool) or not isinstance(self.rule, str | int) or self.rule in ("", 0):
            raise self._invalid("It has another type or is empty")
        if isinstance(self.rule, int) and self.rule < 1:
            raise self._invalid("It is negative")
        if isinstance(self.rule, str):
            try:
                re.compile(self.rule)
            except re.error as error:
                raise self._invalid(f"It is no regular expression ({error})") from error

    @property
    def folder_level(self) -> int:
        """Number of folders below that of the normal training images; 0 with a regular expression."""
        return self.rule if isinstance(self.rule, int) else 0

    def __call__(self, path: str) -> str:
        """Return the group of an image.

        Args:
            path: Path of the image relative to the root, with ``/`` as separator.

        Raises:
            UserError: If the rule does not determine a group.
        """
        if isinstance(self.rule, int):
            folders = path.split("/")[FOLDER_DEPTH:-1]
            if len(folders) < self.rule:
                raise UserError(
                    f"dataset.group={self.rule}: {path} is not in {self.rule} folder(s) below that of the normal "
                    "training images. Move it into the folder of its group."
                )
            return "/".join(folders[: self.rule])
        match = re.search(self.rule, path)
        if match is None:
            raise UserError(
                f"dataset.group={self.rule} does not match the training image {path}. Every training image needs a "
                "group; the alternative |(.*) at the end makes each other image a group of its own."
            )
        return str(match.groups()) if match.re.groups else match[0]

    def _invalid(self, reason: str) -> UserError:
        return UserError(
            f"dataset.group={self.rule} must be a regular expression for the path of an image, or a number of folders. "
            f"{reason}."
        )


def group_indices(samples: Sequence[Sample]) -> Tensor:
    """Return the index (N,) of each image's group, int64; an image without a group has an index of its own.

    Args:
        samples: The N images.
    """
    keys = [(sample.category, sample.group if sample.group is not None else i) for i, sample in enumerate(samples)]
    numbers = {key: index for index, key in enumerate(dict.fromkeys(keys))}
    return torch.tensor([numbers[key] for key in keys], dtype=torch.int64)
