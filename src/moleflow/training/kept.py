"""What a way of learning continually keeps between tasks, as files of a run's ``state`` folder."""

from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path

from torch import Tensor

from moleflow.errors import UserError
from moleflow.files import write_bytes
from moleflow.packing import pack, unpack


def write_kept(folder: Path, task: int, tensors: Mapping[str, Tensor]) -> str | None:
    """Write tensors into ``kept<task>-<digest>.safetensors`` and return that name; None if there are none.

    Files of earlier tasks stay until :func:`drop_kept`, so a run that is killed in between finds its own.

    Args:
        folder: Where the file goes.
        task: Index of the task that is finished.
        tensors: By name.
    """
    if not tensors:
        return None
    content = pack(tensors)
    name = f"kept{task}-{sha256(content).hexdigest()}.safetensors"
    write_bytes(folder / name, content)
    return name


def count(tensors: Mapping[str, Tensor]) -> int:
    """Return how many numbers tensors hold."""
    return sum(tensor.numel() for tensor in tensors.values())


def read_kept(folder: Path, name: str | None) -> dict[str, Tensor]:
    """Return what was written under a name.

    Raises:
        UserError: If the file is missing or damaged.
    """
    if name is None:
        return {}
    path = folder / name
    content = path.read_bytes() if path.is_file() else b""
    if sha256(content).hexdigest() != path.stem.rsplit("-", 1)[1]:
        raise UserError(
            f"{path} is missing or damaged: the next task needs it. Restore it, or start again in a new folder with "
            "hydra.run.dir=..."
        )
    return unpack(content)


def drop_kept(folder: Path, name: str | None) -> None:
    """Remove all such files but the one of that name."""
    for path in folder.glob("kept*.safetensors"):
        if path.name != name:
            path.unlink()
