"""Where features wait between their one computation and every use."""

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

from moleflow.errors import UserError
from moleflow.files import remove_remains, write_bytes

log = logging.getLogger(__name__)

DTYPES = (torch.float32, torch.float16)
_ABANDONED = 3600.0  # seconds after which no process can still be writing one entry


class FeatureStore(Protocol):
    """What :class:`~moleflow.features.extract.FeatureExtractor` needs of a place for features."""

    dtype: torch.dtype

    def key(self, path: Path) -> str: ...
    def __contains__(self, key: str) -> bool: ...
    def load(self, key: str) -> Tensor | None: ...
    def store(self, key: str, tensor: Tensor) -> None: ...


class PictureKeys:
    """Names a picture's features by all that they depend on.

    A key is SHA-256 over the canonical JSON of the specification (with the storage type) and the picture's bytes; a
    copy or a renamed picture has the same key. Hashes are remembered for as long as a file keeps its time and size.

    Args:
        spec: What the features depend on besides the picture; values that JSON knows.
        dtype: Type in which features are kept: float32, or float16 for half the space.
    """

    def __init__(self, spec: Mapping[str, object], dtype: torch.dtype = torch.float32) -> None:
        if dtype not in DTYPES:
            raise UserError(f"Features are kept as float32 or float16, not {dtype}.")
        self.dtype = dtype
        canonical = json.dumps(
            {"format": 2, "features": dict(spec), "dtype": str(dtype)},
            sort_keys=True,
            separators=(",", ":"),
            allow_nan=False,
        )
        self._spec = hashlib.sha256(canonical.encode())
        self._known: dict[tuple[Path, int, int], str] = {}

    def key(self, path: Path) -> str:
        """Return the key of a picture's features.

        Raises:
            UserError: If the file cannot be read.
        """
        try:
            state = path.stat()
            known = (path, state.st_mtime_ns, state.st_size)
            if known not in self._known:
                digest = self._spec.copy()
                digest.update(b"\n")  # canonical JSON holds no line break, so the border is unambiguous
                digest.update(path.read_bytes())
                self._known[known] = digest.hexdigest()
        except OSError as error:
            raise UserError(f"The picture {path} cannot be read: {error.strerror or error}.") from error
        return self._known[known]


class MemoryStore(PictureKeys):
    """Features of this process, kept in memory: for predictions, and where no folder is wanted."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__({}, dtype)
        self._tensors: dict[str, Tensor] = {}

    def __contains__(self, key: str) -> bool:
        return key in self._tensors

    def load(self, key: str) -> Tensor | None:
        """Return the tensor stored under ``key``, or ``None``."""
        return self._tensors.get(key)

    def store(self, key: str, tensor: Tensor) -> None:
        """Keep ``tensor`` under ``key``."""
        self._tensors[key] = tensor.detach().to(device="cpu", dtype=self.dtype, copy=True).contiguous()


class FeatureCache(PictureKeys):
    """Features on disk: one safetensors file a picture, safe against crashes, damage and concurrent writers.

    What a killed writer leaves is a temporary file that nobody reads; the first process that writes to the same
    subfolder an hour later removes it.

    Args:
        folder: Where the files go, ``<folder>/<first two hex digits>/<key>.safetensors``; made when first needed.
        spec: What the features depend on besides the picture, see
            :func:`~moleflow.features.extract.feature_spec`.
        dtype: float32, or float16 for half the space.
    """

    def __init__(self, folder: Path, spec: Mapping[str, object], dtype: torch.dtype = torch.float32) -> None:
        super().__init__(spec, dtype)
        self.folder = Path(folder)
        self._tidy: set[Path] = set()

    def path(self, key: str) -> Path:
        """Return the file of an entry, whether it exists or not."""
        return self.folder / key[:2] / f"{key}.safetensors"

    def __contains__(self, key: str) -> bool:
        return self.path(key).is_file()

    def load(self, key: str) -> Tensor | None:
        """Return the tensor stored under ``key``; ``None`` if there is none or, with a warning, if it is damaged."""
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
        log.warning("The cached features %s are damaged (%s); they are computed anew.", path, fault)
        return None

    def store(self, key: str, tensor: Tensor) -> None:
        """Write ``tensor`` under ``key``: whole or not at all, whoever else writes the same entry.

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
                "Free some space there, or choose another folder for the cache."
            ) from cause
        if path.parent not in self._tidy:
            self._tidy.add(path.parent)
            remove_remains(path.parent, older_than=_ABANDONED)


def _digest(key: str, tensor: Tensor) -> str:
    words = f"{key} {tensor.dtype} {tuple(tensor.shape)};".encode()  # with its key: a renamed entry is no other one
    return hashlib.sha256(words + tensor.reshape(-1).view(torch.uint8).numpy().tobytes()).hexdigest()


class NoStore(PictureKeys):
    """Keeps nothing: every picture is computed when it is asked for.

    Args:
        dtype: Type that features pass through, so that they equal cached ones.
    """

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__({}, dtype)

    def __contains__(self, key: str) -> bool:
        return False

    def load(self, key: str) -> Tensor | None:
        """Return None."""
        return None

    def store(self, key: str, tensor: Tensor) -> None:
        """Keep nothing."""
