"""Detection of the layout of a folder."""

from pathlib import Path

from moleflow.data.layouts.base import Layout
from moleflow.data.layouts.btad import BTADLayout
from moleflow.data.layouts.kolektor_sdd2 import KolektorSDD2Layout
from moleflow.data.layouts.mvtec import MVTecLayout
from moleflow.data.layouts.mvtec_ad2 import MVTecAD2Layout
from moleflow.data.layouts.mvtec_loco import MVTecLOCOLayout
from moleflow.data.layouts.names import DEFAULT_NAMES, LayoutNames
from moleflow.data.layouts.real_iad import RealIADLayout
from moleflow.data.layouts.visa import VisALayout
from moleflow.utils.errors import UserError

LAYOUTS: tuple[type[Layout], ...] = (
    VisALayout,
    RealIADLayout,
    KolektorSDD2Layout,
    MVTecAD2Layout,
    MVTecLOCOLayout,
    BTADLayout,
    MVTecLayout,
)
"""All layouts; the first one that matches a folder is its layout, and the last one matches any folder."""


def layout_of(root: Path, names: LayoutNames = DEFAULT_NAMES) -> Layout:
    """Return the layout of a folder.

    Args:
        root: The folder of the data set.
        names: Names of the layout of MVTec AD.

    Raises:
        UserError: If the folder does not exist.
    """
    root = Path(root)
    if not root.is_dir():
        raise UserError(f"dataset.root={root} must be a folder. Set dataset.root to the folder of the categories.")
    return next(layout for layout in LAYOUTS if layout.matches(root))(root, names)
