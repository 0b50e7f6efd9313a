"""Fingerprint of the data of a run: digests of all images and masks, to recognize changed files."""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from moleflow.data.image_io import mask_files
from moleflow.data.samples import SPLITS, nfc
from moleflow.utils.io import file_digest

if TYPE_CHECKING:  # Lightning takes seconds to import
    from moleflow.data.datamodule import ImageDataModule

Fingerprint = Mapping[str, Mapping[str, Mapping[str, str]]]
"""Digest of each file by category, kind (``train``, ``test``, ``masks``) and name relative to the root."""


def data_fingerprint(data: "ImageDataModule") -> Fingerprint:
    """Return the digests of all images and masks that a run uses.

    Names are relative to the root of the data set and in Unicode's composed form, so that a copy of the data set at
    another place has the same fingerprint.

    Args:
        data: The data of the run.

    Raises:
        UserError: If a file cannot be read.
    """
    files: dict[str, dict[str, list[Path]]] = {}
    for category in data.categories:
        samples = {split: data.samples(split, category) for split in SPLITS}
        files[category] = {split: [sample.path for sample in samples[split]] for split in SPLITS}
        files[category]["masks"] = [f for s in samples["test"] if s.mask is not None for f in mask_files(s.mask)]
    paths = [path for kinds in files.values() for group in kinds.values() for path in group]
    with ThreadPoolExecutor() as pool:  # hashing releases the GIL
        digests = dict(zip(paths, pool.map(file_digest, paths), strict=True))
    return {
        category: {kind: {nfc(data.file_name(path)): digests[path] for path in group} for kind, group in kinds.items()}
        for category, kinds in files.items()
    }
