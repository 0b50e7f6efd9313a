"""The model folder: base, experts and manifest as checksummed files.

    base.safetensors            tensors shared by all experts
    experts/<name>.safetensors  one expert each: weights, training features and training scores; a long name is cut
    manifest.json               settings, experts, and size and sha256 of every file; written last

A listed file is never overwritten: a changed base is written to ``base.<digest>.safetensors``, and the previous one is
removed after the manifest lists the new one. A kill at any moment leaves a folder that agrees with its manifest.

No pickle is read, and nothing in the folder is executed.
"""

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from safetensors import SafetensorError
from torch import Tensor

from moleflow.utils.errors import UserError
from moleflow.utils.io import read_checksummed_json, sha256, shorten_name, write_bytes, write_checksummed_json
from moleflow.utils.serialization import bytes_to_tensors, tensors_to_bytes

FORMAT = 2
"""Format of the manifest and of the tensors of an expert that is written."""
READABLE_FORMATS = (1, FORMAT)
"""Formats that are read. In format 1 an expert has no ``training.maxima``."""
ENSEMBLE_FILE = "ensemble.json"
"""File of a run folder that has an ensemble of other runs in place of a model."""
_OVERRIDABLE_COMPONENTS = ("transform", "model", "scoring")


def model_folder(path: Path) -> Path:
    """Return the model folder of a path: the path itself, or the folder ``model`` in a run folder.

    Raises:
        UserError: If the folder does not exist or has no model.
    """
    if (path / "manifest.json").is_file():
        return path
    if not path.is_dir():
        raise UserError(f"{path} does not exist. Give a run folder, or the model folder in it.")
    if (path / ENSEMBLE_FILE).is_file():
        raise UserError(f"{path} is an ensemble without experts. Give one of its member runs.")
    if not (path / "model" / "manifest.json").is_file():
        raise UserError(f"{path} has no model: {path / 'model' / 'manifest.json'} is missing.")
    return path / "model"


def detector_folder(path: Path) -> Path:
    """Return the folder of a detector's files: of a model, or the run folder of an ensemble.

    Raises:
        UserError: If the folder has neither.
    """
    return path if (path / ENSEMBLE_FILE).is_file() else model_folder(path)


class ModelStore:
    """Reads and writes a model folder.

    Args:
        folder: The model folder; created by :meth:`save`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def manifest_path(self) -> Path:
        """Path of the manifest, which is written last."""
        return self.folder / "manifest.json"

    def manifest(self) -> dict[str, Any]:
        """Return the manifest.

        Raises:
            UserError: If it is missing, damaged, or of another format.
        """
        manifest = read_checksummed_json(self.manifest_path)
        if manifest.get("format") not in READABLE_FORMATS or not _is_valid(manifest):
            formats = " or ".join(map(str, READABLE_FORMATS))
            raise UserError(f"{self.manifest_path} is not a model manifest of format={formats}.")
        return manifest

    def save(
        self,
        settings: Mapping[str, Any],
        base: Mapping[str, Tensor],
        experts: Mapping[str, Mapping[str, Tensor]],
        entries: Mapping[str, Mapping[str, Any]],
    ) -> None:
        """Write base and experts, then the manifest that lists them.

        Files whose content does not change are not written again.

        Args:
            settings: The settings that rebuild the model.
            base: Tensors shared by all experts.
            experts: Tensors of each expert, in order of arrival.
            entries: Manifest entry of each expert: its categories and overrides.
        """
        previous = self.manifest()["files"] if self.manifest_path.is_file() else {}
        files: dict[str, dict[str, Any]] = {}
        base_file = self._write("base", base, files)
        listed = []
        for name, tensors in experts.items():
            stem = shorten_name(quote(name, safe="+ ,()", errors="surrogateescape"))
            file = self._write(f"experts/{stem}", tensors, files)
            listed.append({"name": name, "file": file, **entries[name]})
        write_checksummed_json(
            self.manifest_path,
            {"format": FORMAT, "settings": dict(settings), "base": base_file, "experts": listed, "files": files},
        )
        for relative in previous.keys() - files.keys():
            self._path(relative).unlink(missing_ok=True)

    def entries(self) -> dict[str, dict[str, Any]]:
        """Return the manifest entry of each expert, in order of arrival."""
        listed = self.manifest()["experts"]
        return {e["name"]: {key: value for key, value in e.items() if key not in ("name", "file")} for e in listed}

    def base(self) -> dict[str, Tensor]:
        """Return the tensors shared by all experts, checked against the manifest."""
        return self._read(str(self.manifest()["base"]))

    def expert(self, name: str) -> dict[str, Tensor]:
        """Return one expert's tensors, checked against the manifest."""
        for entry in self.manifest()["experts"]:
            if entry["name"] == name:
                return self._read(str(entry["file"]))
        raise UserError(f"{self.manifest_path} lists no expert named {name!r}.")

    def check(self) -> None:
        """Read and check every file of the model.

        Raises:
            UserError: If a file is missing or damaged.
        """
        self.base()
        for entry in self.manifest()["experts"]:
            self._read(str(entry["file"]))

    def _write(self, stem: str, tensors: Mapping[str, Tensor], files: dict[str, dict[str, Any]]) -> str:
        """Write one file, list it in ``files``, and return its path in the folder."""
        content = tensors_to_bytes(tensors)
        digest = hashlib.sha256(content).hexdigest()
        for relative in (f"{stem}.safetensors", f"{stem}.{digest[:16]}.safetensors"):
            path = self.folder / relative
            if not path.is_file():
                write_bytes(path, content)
                break
            if sha256(path) == digest:
                break
        files[relative] = {"bytes": len(content), "sha256": digest}
        return relative

    def _path(self, relative: str) -> Path:
        """Return the path of a listed file.

        Raises:
            UserError: If it is outside the folder.
        """
        path = (self.folder / relative).resolve()
        if not path.is_relative_to(self.folder.resolve()):
            raise UserError(f"{self.manifest_path} lists a file outside its folder: {relative}.")
        return path

    def _read(self, relative: str) -> dict[str, Tensor]:
        listed = self.manifest()["files"].get(relative)
        path = self._path(relative)
        if listed is None or not path.is_file():
            raise UserError(f"{path} is missing. Copy the model folder again, or retrain.")
        try:
            content = path.read_bytes()
        except OSError as error:
            raise UserError(f"{path} cannot be read: {error.strerror or error}.") from error
        if len(content) != listed["bytes"] or hashlib.sha256(content).hexdigest() != listed["sha256"]:
            raise UserError(f"{path} is damaged: its size or sha256 differs from the manifest. Copy it again.")
        try:
            return bytes_to_tensors(content)
        except SafetensorError as error:
            raise UserError(f"{path} is not a safetensors file ({error}). Copy it again.") from error


def _is_valid(manifest: Mapping[str, Any]) -> bool:
    """Return whether a manifest has all required entries with the right types."""
    files, experts = manifest.get("files"), manifest.get("experts")
    return (
        isinstance(manifest.get("settings"), dict)
        and isinstance(manifest.get("base"), str)
        and isinstance(files, dict)
        and all(
            isinstance(listed, dict)
            and isinstance(listed.get("bytes"), int)
            and re.fullmatch("[0-9a-f]{64}", str(listed.get("sha256"))) is not None
            for listed in files.values()
        )
        and isinstance(experts, list)
        and all(
            isinstance(entry, dict)
            and isinstance(entry.get("name"), str)
            and isinstance(entry.get("file"), str)
            and isinstance(entry.get("categories"), list)
            and all(isinstance(category, str) for category in entry["categories"])
            and _are_valid_overrides(entry.get("overrides", {}))
            for entry in experts
        )
    )


def _are_valid_overrides(overrides: Any) -> bool:
    """Return whether an expert's overrides have the right types."""
    if not isinstance(overrides, dict) or not isinstance(overrides.get("feature_sets", {}), dict):
        return False
    sets = [overrides, *overrides.get("feature_sets", {}).values()]
    return all(isinstance(each, dict) for each in sets) and all(
        isinstance(each.get(part, {}), dict) for each in sets for part in _OVERRIDABLE_COMPONENTS
    )
