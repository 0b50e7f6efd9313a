"""Folder layout of BTAD."""

from dataclasses import replace
from pathlib import Path

from moleflow.data.layouts.mvtec import MVTecLayout
from moleflow.data.layouts.names import DEFAULT_NAMES, LayoutNames


class BTADLayout(MVTecLayout):
    """Layout of BTAD (Mishra et al., ISIE 2021): that of MVTec AD with the folders ``ok`` and ``ko``.

    The archive ``BTech_Dataset_transformed`` has the folders ``01``, ``02`` and ``03``, one per product, with
    ``train/ok``, ``test/ok``, ``test/ko`` and ``ground_truth/ko``. A mask has the name of its image; the suffixes, .bmp
    and .png, differ between products and between images and masks of one product.

    Args:
        root: The folder of the data set.
        names: Names of the layout; by default with ``ok`` as folder of the normal images.
    """

    def __init__(self, root: Path, names: LayoutNames = DEFAULT_NAMES) -> None:
        super().__init__(root, replace(names, normal_dir="ok") if names == DEFAULT_NAMES else names)

    @classmethod
    def matches(cls, root: Path) -> bool:
        """Return whether a folder below the root has ``train/ok`` and ``test/ko``, and none has ``train/good``."""
        products = [path.parents[1] for path in root.glob("[!.]*/train/ok")]
        return any((path / "test" / "ko").is_dir() for path in products) and not any(root.glob("[!.]*/train/good"))
