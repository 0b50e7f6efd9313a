"""Names in the folder layout of MVTec AD that a data set may choose."""

from dataclasses import dataclass, fields

from moleflow.data.samples import GOOD, Split
from moleflow.utils.errors import UserError

_MASK_SUFFIXES = ("_mask", "", "_gt", "_label", "_gt_label", "_ground_truth", "_groundtruth", "_seg")
"""Suffixes of mask names in the order of their precedence, after ``mask_suffix``; compared in any case."""

_DEFAULTS = {"normal_dir": GOOD, "test_dir": "test", "mask_dir": "ground_truth"}


@dataclass(frozen=True)
class LayoutNames:
    """Names in the folder layout of MVTec AD that a data set may choose.

    Attributes:
        normal_dir: Folder of the normal images in ``train`` and in the test folder.
        mask_dir: Folder of the masks in a category; ``TEST_DIR/NAME`` if it is in the test folder.
        mask_suffix: Suffix of the name of a mask after the name of its image.
        test_dir: Folder of the test images in a category.
        group_level: Number of folders between the folder of the normal training images and these images.

    Raises:
        UserError: If a folder is not one visible folder's name, or the suffix contains a separator.
    """

    normal_dir: str = GOOD
    mask_dir: str = "ground_truth"
    mask_suffix: str = "_mask"
    test_dir: str = "test"
    group_level: int = 0

    def __post_init__(self) -> None:
        for key, default in _DEFAULTS.items():
            name = getattr(self, key)
            folder = name.removeprefix(f"{self.test_dir}/") if key == "mask_dir" and isinstance(name, str) else name
            if not isinstance(folder, str) or not folder or folder.startswith(".") or {"/", "\\"} & set(folder):
                raise UserError(f"dataset.{key}={name} must be the name of one folder, such as {default}.")
        if not isinstance(self.mask_suffix, str) or {"/", "\\"} & set(self.mask_suffix):
            raise UserError(f"dataset.mask_suffix={self.mask_suffix} must be a part of a file name, such as _mask.")
        if self.test_dir == "train":
            raise UserError("dataset.test_dir=train must not be the folder of the training images.")
        if self.mask_dir in ("train", self.test_dir):
            raise UserError(f"dataset.mask_dir={self.mask_dir} must not be a folder of images.")

    def arguments(self) -> list[str]:
        """Return the arguments of ``moleflow check-data`` for the names that are not the default ones."""
        values = {field.name: (getattr(self, field.name), field.default) for field in fields(self)}
        return [f"--{key.replace('_', '-')}={value}" for key, (value, default) in values.items() if value != default]

    def image_dirs(self, split: Split) -> str:
        """Return the folders of a split's images, for messages."""
        if split == "train":
            return f"train/{self.normal_dir}"
        return f"{self.test_dir}/{self.normal_dir} and {self.test_dir}/<defect>"

    def mask_suffixes(self) -> list[str]:
        """Return the accepted suffixes of mask names, each once, in the order of their precedence."""
        return list(dict.fromkeys((self.mask_suffix, *_MASK_SUFFIXES)))

    def mask_names(self, stem: str) -> str:
        """Return the accepted names of the mask of an image, for messages.

        Args:
            stem: Name of the image without suffix.
        """
        names = [f"{stem}{suffix}.png" for suffix in self.mask_suffixes()]
        return f"{', '.join(names[:3])} (with any suffix of an image), or the masks of a folder {stem}"


DEFAULT_NAMES = LayoutNames()
