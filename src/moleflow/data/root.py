"""The folder of a data set."""

from pathlib import Path

from moleflow.utils.errors import UserError


def required_root(root: str | Path | None) -> Path:
    """Return the folder of a data set, which need not exist.

    Args:
        root: Value of ``dataset.root``; ``~`` is the home folder.

    Raises:
        UserError: If it is None.
    """
    if root is None:
        raise UserError("dataset.root=null must be a folder. Set dataset.root=/path to the folder of the categories.")
    return Path(root).expanduser()
