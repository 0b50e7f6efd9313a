"""Folders of detectors, found without loading torch, so that a wrong path is an error at once."""

from pathlib import Path

from moleflow.utils.errors import UserError

ENSEMBLE_FILE = "ensemble.json"
"""File of a run folder that has an ensemble of other runs in place of a model."""


def model_folder(path: Path) -> Path:
    """Return the model folder of a path: the path itself, or the folder ``model`` in a run folder.

    Raises:
        UserError: If the folder does not exist or has no model.
    """
    if (path / "manifest.json").exists():  # as another kind of file it is an error
        return path
    if not path.is_dir():
        raise UserError(f"{path} does not exist. Give a run folder, or the model folder in it.")
    if (path / ENSEMBLE_FILE).is_file():
        raise UserError(f"{path} is an ensemble without experts. Give one of its member runs.")
    if not (path / "model" / "manifest.json").exists():
        raise UserError(f"{path} has no model: {path / 'model' / 'manifest.json'} is missing.")
    return path / "model"


def detector_folder(path: Path) -> Path:
    """Return the folder of a detector's files: of a model, or the run folder of an ensemble.

    Raises:
        UserError: If the folder has neither.
    """
    return path if (path / ENSEMBLE_FILE).is_file() else model_folder(path)
