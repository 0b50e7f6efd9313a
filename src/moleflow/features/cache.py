"""Caches of patch features: on disk, in memory, or none."""

import hashlib
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from moleflow.utils.errors import UserError
from moleflow.utils.io import file_digest, remove_stale_temporaries, write_bytes

log = logging.getLogger(__name__)

DTYPES = (torch.float32, torch.float16)
"""The storage types of features."""

_MAX_WRITE_SECONDS = 3600.0  # age at which a temporary file belongs to a process that was killed


class FeatureCache(Protocol):
    """Interface of the caches of :class:`~moleflow.features.extractor.FeatureExtractor`.

    Attributes:
        dtype: Storage type of the features.
    """

    dtype: torch.dtype

    def key(self, path: Path) -> str:
        """Return the key of an image's features."""
        ...

    def __contains__(self, key: str) -> bool:
        """Whether there is an entry of this key."""
        ...

    def load(self, key: str) -> Tensor | None:
        """Return the entry of a key, or None."""
        ...

    def store(self, key: str, tensor: Tensor) -> None:
        """Store an entry."""
        ...


class FeatureKeys:
    """Keys of features, computed from the content of the image and all settings that the features depend on.

    A key is the SHA-256 digest of the specification and storage type as canonical JSON, and of the digest of the image
    file, which all caches and ``data.json`` share; a copy or a renamed image has the same key.

    Args:
        spec: The settings that the features depend on besides the image, as JSON types.
        dtype: Storage type of the features: float32, or float16 for half the space.

    Raises:
        UserError: If the storage type is another one.
    """

    def __init__(self, spec: Mapping[str, object], dtype: torch.dtype = torch.float32) -> None:
        if dtype not in DTYPES:
            raise UserError(f"features.dtype={str(dtype).removeprefix('torch.')} must be float32 or float16.")
        self.dtype = dtype
        canonical = json.dumps(
            {"format": 3, "features": dict(spec), "dtype": str(dtype)},
            sort_keys=True,
            separators=(",", ":"),
            allow_nan=False,
        )
        self._spec = hashlib.sha256(canonical.encode())

    def key(self, path: Path) -> str:
        """Return the key of an image's features.

        Raises:
            UserError: If the file cannot be read.
        """
        digest = self._spec.copy()
        digest.update(f"\n{file_digest(path)}".encode())  # canonical JSON has no line break
        return digest.hexdigest()


class NullFeatureCache(FeatureKeys):
    """Cache without entries: all features are computed again.

    Args:
        dtype: Storage type of the features: float32 or float16. Features are rounded to it as if they were cached.
    """

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__({}, dtype)

    def __contains__(self, key: str) -> bool:
        return False

    def load(self, key: str) -> Tensor | None:
        """Return None."""
        return None

    def store(self, key: str, tensor: Tensor) -> None:
        """Discard the entry."""


class MemoryFeatureCache(FeatureKeys):
    """Cache in memory, for the lifetime of the object.

    Args:
        dtype: Storage type of the features: float32 or float16.
    """

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__({}, dtype)
        self._tensors: dict[str, Tensor] = {}

    def __contains__(self, key: str) -> bool:
        return key in self._tensors

    def load(self, key: str) -> Tensor | None:
        """Return the entry of a key, or None if there is none."""
        return self._tensors.get(key)

    def store(self, key: str, tensor: Tensor) -> None:
        """Store a copy of a tensor as the entry of a key."""
        self._tensors[key] = tensor.detach().to(device="cpu", dtype=self.dtype, copy=True).contiguous()


class DiskFeatureCache(FeatureKeys):
    """Cache on disk: one safetensors file per image, safe against crashes, damage and concurrent writers.

    A killed process may leave a temporary file, which is never read. It is removed by the first process that writes to
    the same subfolder an hour later or more.

    Args:
        folder: Folder of the files ``<folder>/<first two hex digits>/<key>.safetensors``; created when first needed.
        spec: The settings that the features depend on besides the image, see
            :func:`~moleflow.features.extractor.feature_spec`.
        dtype: Storage type of the features: float32, or float16 for half the space.

    Raises:
        UserError: If the storage type is another one.
    """

    def __init__(self, folder: Path, spec: Mapping[str, object], dtype: torch.dtype = torch.float32) -> None:
        super().__init__(spec, dtype)
        self.folder = Path(folder)
        self._cleaned: set[Path] = set()  # subfolders without stale temporary files

    def path(self, key: str) -> Path:
        """Return the path of an entry, which need not exist."""
        return self.folder / key[:2] / f"{key}.safetensors"

    def __contains__(self, key: str) -> bool:
        return self.path(key).is_file()

    def load(self, key: str) -> Tensor | None:
        """Return the entry of a key; None if there is none or, with a warning, if it is damaged."""
        path = self.path(key)
        try:
            with safe_open(path, framework="pt") as entry:
                tensor: Tensor = entry.get_tensor("features")
                expected = (entry.metadata() or {}).get("sha256")
            if _digest(key, tensor) == expected:
                return tensor
            fault = "its content does not match its checksum"
        except FileNotFoundError:
            return None
        except (SafetensorError, OSError) as error:
            fault = str(error)
        log.warning("The cached features %s are damaged (%s). They are computed again.", path, fault)
        return None

    def store(self, key: str, tensor: Tensor) -> None:
        """Write the entry of a key atomically; several processes may write the same entry.

        Raises:
            UserError: If the disk is full or the folder cannot be written.
        """
        stored = tensor.detach().to(device="cpu", dtype=self.dtype).contiguous()
        path = self.path(key)
        try:
            write_bytes(path, save({"features": stored}, metadata={"sha256": _digest(key, stored)}))
        except UserError as error:
            cause = error.__cause__
            raise UserError(
                f"Features cannot be written to the cache {self.folder}: {getattr(cause, 'strerror', None) or error}. "
                "Free some space there, or set features.cache_dir to another folder."
            ) from cause
        if path.parent not in self._cleaned:
            self._cleaned.add(path.parent)
            remove_stale_temporaries(path.parent, older_than=_MAX_WRITE_SECONDS)


def _digest(key: str, tensor: Tensor) -> str:
    header = f"{key} {tensor.dtype} {tuple(tensor.shape)};".encode()  # the key, so that a renamed file is invalid
    return hashlib.sha256(header + tensor.reshape(-1).view(torch.uint8).numpy().tobytes()).hexdigest()
