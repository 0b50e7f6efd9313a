"""Folder layout of MVTec LOCO AD, with the saturation thresholds of its defects."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

from moleflow.data.findings import Finding
from moleflow.data.layouts.base import CategoryScan
from moleflow.data.layouts.mvtec import MVTecLayout
from moleflow.data.saturation import SaturationThreshold
from moleflow.data.unused_files import UnusedCause
from moleflow.utils.errors import UserError

CONFIG = "defects_config.json"
"""File of a category with the saturation thresholds of its defects."""
_GROUPS = {"logical_anomalies": "logical", "structural_anomalies": "structural"}


class MVTecLOCOLayout(MVTecLayout):
    """Layout of MVTec LOCO AD (Bergmann et al., IJCV 2022): that of MVTec AD with two groups of defects.

    A category has ``train/good``, ``validation/good``, ``test/good``, ``test/logical_anomalies`` and
    ``test/structural_anomalies``. The masks of the test image ``<group>/000.png`` are the files
    ``ground_truth/<group>/000/000.png``, ``001.png`` and so on, one per defect; in each, the pixels of the defect have
    one nonzero value, which stands for the kind of defect. ``defects_config.json`` of the category is a list with one
    entry per kind: ``defect_name``, ``pixel_value``, ``saturation_threshold`` and ``relative_saturation`` (true: the
    threshold is a share of the defect's pixels; false: a number of pixels, at most those of the defect).

    Logical and structural anomalies have metrics of their own, as in the paper.
    """

    unread_dirs: ClassVar[Mapping[str, UnusedCause]] = {
        "validation": UnusedCause(
            "note", "the validation images of the data set are not used", "For validation images, set validation=0.1."
        )
    }

    @classmethod
    def matches(cls, root: Path) -> bool:
        """Return whether a folder below the root has one of the two groups of defects."""
        return any(path.is_dir() for group in _GROUPS for path in root.glob(f"[!.]*/test/{group}"))

    def scan(self, category: str) -> CategoryScan:
        """Return the files of one category, with groups of defects and saturation thresholds.

        Without ``defects_config.json`` there are no saturation thresholds, which is a warning.

        Raises:
            UserError: If ``defects_config.json`` cannot be read.
        """
        scan = super().scan(category)
        path = self._folders().get(scan.category, self.root / scan.category) / CONFIG
        groups = {defect: group for defect, group in _GROUPS.items() if any(s.defect == defect for s in scan.samples)}
        if not path.is_file():
            missing = Finding(
                "warning",
                scan.category,
                f"{path} does not exist, so that {scan.category} has no sPRO. Restore it from the release.",
            )
            return replace(scan, groups=groups, faults=(*scan.faults, missing))
        unused = tuple(file for file in scan.unused if file.path != path)
        return replace(scan, groups=groups, saturation=read_defects_config(path), unused=unused)


def read_defects_config(path: Path) -> dict[int, SaturationThreshold]:
    """Return the saturation thresholds of a category by pixel value.

    Args:
        path: The file ``defects_config.json``.

    Raises:
        UserError: If the file cannot be read or has other entries.
    """
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
        result = {
            int(entry["pixel_value"]): SaturationThreshold(
                float(entry["saturation_threshold"]), bool(entry["relative_saturation"])
            )
            for entry in entries
        }
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(
            f"{path} cannot be read ({type(error).__name__}: {error}). It must be a list of objects with pixel_value, "
            "saturation_threshold and relative_saturation; restore it from the release of MVTec LOCO AD."
        ) from error
    if invalid := [value for value, threshold in result.items() if value < 1 or threshold.value <= 0]:
        raise UserError(f"{path}: pixel_value={invalid[0]} and its saturation_threshold must be positive.")
    return result
