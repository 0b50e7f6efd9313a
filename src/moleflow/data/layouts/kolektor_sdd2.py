"""Folder layout of KolektorSDD2."""

from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from moleflow.data.findings import Finding
from moleflow.data.image_io import images_in, read_mask
from moleflow.data.layouts.base import CategoryScan, Layout
from moleflow.data.samples import GOOD, SPLITS, Sample
from moleflow.data.unused_files import UnusedCause, UnusedFile, cause_of_other_file, visible_files
from moleflow.utils.errors import UserError

CATEGORY = "kolektor_sdd2"
"""Name of the only category."""
_DEFECT = "defect"
_MASK_SUFFIX = "_gt"
_TRAINING_DEFECT = UnusedCause("note", "training images with a defect are not used: training needs normal images only")


class KolektorSDD2Layout(Layout):
    """Layout of KolektorSDD2 (Bozic et al., Computers in Industry 2021): one surface, with masks beside the images.

    The folders ``train`` and ``test`` have the images ``10000.png`` and, beside each, normal or not, the mask
    ``10000_GT.png``. An image has a defect if its mask has a nonzero pixel, so that reading the labels decodes all
    masks. 246 of 2331 training images and 110 of 1004 test images have defects; the training images with a defect are
    not used.
    """

    @classmethod
    def matches(cls, root: Path) -> bool:
        """Return whether the folder ``train`` of the root has masks ``*_GT.*``."""
        return any(_is_mask(path) for path in images_in(root / "train"))

    def categories(self) -> tuple[str, ...]:
        """Return the only category."""
        return (CATEGORY,)

    def scan(self, category: str) -> CategoryScan:
        """Return the files of the data set, and a fault for each image without a readable mask."""
        samples: list[Sample] = []
        faults: list[Finding] = []
        unused: list[UnusedFile] = []
        for split in SPLITS:
            files = images_in(self.root / split)
            masks = {path.stem[: -len(_MASK_SUFFIX)]: path for path in files if _is_mask(path)}
            images = [path for path in files if not _is_mask(path)]
            with ThreadPoolExecutor() as pool:  # decoding releases the GIL
                labels = list(pool.map(_has_defect, [masks.get(path.stem) for path in images]))
            for path, label in zip(images, labels, strict=True):
                mask = masks.pop(path.stem, None)
                if isinstance(label, str):
                    problem = label or f"{path} has no mask {path.stem}_GT{path.suffix}, which has its label. Add it."
                    faults.append(Finding("error", category, problem, "no label"))
                elif split == "train" and label:
                    unused += [UnusedFile(file, category, _TRAINING_DEFECT) for file in (path, mask) if file]
                else:
                    samples.append(Sample(path, category, split, _DEFECT if label else GOOD, mask if label else None))
            orphan = UnusedCause("error", "no image has this mask", "Add the image, or remove the mask.")
            unused += [UnusedFile(mask, category, orphan) for mask in masks.values()]
            known = set(files)
            elsewhere = UnusedCause("warning", f"images are read from {split} directly", "Move them up.")
            unused += [
                UnusedFile(path, category, cause_of_other_file(path, path.parent.name == split) or elsewhere)
                for path in visible_files(self.root / split)
                if path not in known
            ]
        samples.sort(key=lambda s: (s.split == "test", s.defect != GOOD, s.path))
        source = "train and test"
        return CategoryScan(self.root, category, tuple(samples), tuple(unused), tuple(faults), self.names, source)

    def _is_used(self, path: Path, categories: Collection[str]) -> bool:
        return path.name in SPLITS


def _is_mask(path: Path) -> bool:
    return path.stem.casefold().endswith(_MASK_SUFFIX)


def _has_defect(mask: Path | None) -> bool | str:
    """Return whether a mask has a nonzero pixel; the error if it cannot be read, empty without a mask."""
    if mask is None:
        return ""
    try:
        return read_mask(mask).getbbox() is not None
    except UserError as error:
        return str(error)
