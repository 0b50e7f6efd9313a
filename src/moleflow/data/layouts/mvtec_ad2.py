"""Folder layout of MVTec AD 2."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

from moleflow.data.layouts.mvtec import MVTecLayout
from moleflow.data.layouts.names import DEFAULT_NAMES, LayoutNames
from moleflow.data.unused_files import UnusedCause

_TEST = "test_public"
_UNLABELED = UnusedCause(
    "note", "images without public labels, which only the evaluation server of MVTec AD 2 scores, are not used"
)


class MVTecAD2Layout(MVTecLayout):
    """Layout of MVTec AD 2 (Heckler-Kram et al., arXiv:2503.21622), of which the public test images are read.

    A category has ``train/good`` and ``validation/good`` (files ``000_regular.png``), the public test images
    ``test_public/good`` and ``test_public/bad`` (``000_<lighting>.png`` with lightings such as ``regular``,
    ``underexposed``, ``overexposed`` and ``shift_1``), their masks ``test_public/ground_truth/bad``
    (``000_<lighting>_mask.png`` with the values 0 and 255), and the unlabeled images of the evaluation server in
    ``test_private`` and ``test_private_mixed``, which are not used. All defects have the name ``bad``.

    Args:
        root: The folder of the data set.
        names: Names of the layout; by default those of the release.
    """

    unread_dirs: ClassVar[Mapping[str, UnusedCause]] = {
        "test_private": _UNLABELED,
        "test_private_mixed": _UNLABELED,
        "validation": UnusedCause(
            "note", "the validation images of the data set are not used", "For validation images, set validation=0.1."
        ),
    }

    def __init__(self, root: Path, names: LayoutNames = DEFAULT_NAMES) -> None:
        release = replace(names, test_dir=_TEST, mask_dir=f"{_TEST}/ground_truth")
        super().__init__(root, release if names == DEFAULT_NAMES else names)

    @classmethod
    def matches(cls, root: Path) -> bool:
        """Return whether a folder below the root has a folder ``test_public``."""
        return any(path.is_dir() for path in root.glob(f"[!.]*/{_TEST}"))
