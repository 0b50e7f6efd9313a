"""The model folder: base, experts and manifest as files that can be checked, shipped and recombined.

    base.safetensors            what all experts share
    experts/<name>.safetensors  one expert each: its weights and its router statistics
    manifest.json               settings, experts, and size and sha256 of every file; written last

A listed file is never overwritten: a base that learns on goes into ``base.<digest>.safetensors``, and the former one
is removed once the manifest names the new. So a kill at any moment leaves a folder that agrees with its manifest.

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

from moleflow.errors import UserError
from moleflow.files import read_sealed, sha256, write_bytes, write_sealed
from moleflow.packing import pack, unpack

FORMAT = 1
ENSEMBLE_FILE = "ensemble.json"
"""What a run folder holds in place of a model if it is an ensemble of other runs."""
_OWN_PARTS = ("transform", "model", "scoring")  # what an expert's own settings may say of the model


def model_folder(path: Path) -> Path:
    """Return the model folder that a path names: itself, or the one in a run folder.

    Raises:
        UserError: If there is no such folder, or it holds no model of its own.
    """
    if (path / "manifest.json").is_file():
        return path
    if not path.is_dir():
        raise UserError(f"There is no folder {path}. Name a run folder, or the model folder in it.")
    if (path / ENSEMBLE_FILE).is_file():
        raise UserError(
            f"{path} is an ensemble and has no experts of its own. Name one of the runs that it was made of."
        )
    if not (path / "model" / "manifest.json").is_file():
        raise UserError(f"{path} holds no model: {path / 'model' / 'manifest.json'} is missing.")
    return path / "model"


class ExpertStore:
    """Reads and writes a model folder.

    Args:
        folder: The model folder; it need not exist yet.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def manifest_path(self) -> Path:
        """Path of the manifest; it exists once something complete was saved."""
        return self.folder / "manifest.json"

    def manifest(self) -> dict[str, Any]:
        """Return the manifest.

        Raises:
            UserError: If it is missing, damaged, or of a format that this version does not know.
        """
        manifest = read_sealed(self.manifest_path)
        if manifest.get("format") != FORMAT or not _is_sound(manifest):
            raise UserError(f"{self.manifest_path} is not a model manifest of format {FORMAT}.")
        return manifest

    def save(
        self,
        settings: Mapping[str, Any],
        base: Mapping[str, Tensor],
        experts: Mapping[str, Mapping[str, Tensor]],
        notes: Mapping[str, Mapping[str, Any]],
    ) -> None:
        """Write base and experts, then the manifest that lists them.

        A file whose content would not change is left alone, so an expert of an earlier task keeps bytes and date.

        Args:
            settings: What is needed to build the model again.
            base: The shared tensors.
            experts: Tensors of each expert, in order of arrival.
            notes: JSON-able facts about each expert (categories, thresholds).
        """
        former = self.manifest()["files"] if self.manifest_path.is_file() else {}
        files: dict[str, dict[str, Any]] = {}
        base_file = self._write("base", base, files)
        listed = []
        for name, tensors in experts.items():
            file = self._write(f"experts/{quote(name, safe='+ ,()')}", tensors, files)
            listed.append({"name": name, "file": file, **notes[name]})
        write_sealed(
            self.manifest_path,
            {"format": FORMAT, "settings": dict(settings), "base": base_file, "experts": listed, "files": files},
        )
        for relative in former.keys() - files.keys():
            self._path(relative).unlink(missing_ok=True)

    def notes(self) -> dict[str, dict[str, Any]]:
        """Return the facts about each expert that were saved with it, in order of arrival."""
        listed = self.manifest()["experts"]
        return {e["name"]: {key: value for key, value in e.items() if key not in ("name", "file")} for e in listed}

    def base(self) -> dict[str, Tensor]:
        """Return the shared tensors, checked against the manifest."""
        return self._read(str(self.manifest()["base"]))

    def expert(self, name: str) -> dict[str, Tensor]:
        """Return one expert's tensors, checked against the manifest."""
        for entry in self.manifest()["experts"]:
            if entry["name"] == name:
                return self._read(str(entry["file"]))
        raise UserError(f"{self.manifest_path} lists no expert named {name!r}.")

    def check(self) -> None:
        """Read every file of the model.

        Raises:
            UserError: If one is missing or damaged; the message names it.
        """
        self.base()
        for entry in self.manifest()["experts"]:
            self._read(str(entry["file"]))

    def _write(self, stem: str, tensors: Mapping[str, Tensor], files: dict[str, dict[str, Any]]) -> str:
        """Write one file, list it in ``files``, and return its path in the folder."""
        content = pack(tensors)
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
        """Return where a listed file lies.

        Raises:
            UserError: If that is outside the folder.
        """
        path = (self.folder / relative).resolve()
        if not path.is_relative_to(self.folder.resolve()):
            raise UserError(f"{self.manifest_path} names a file outside its folder: {relative}. It is refused.")
        return path

    def _read(self, relative: str) -> dict[str, Tensor]:
        listed = self.manifest()["files"].get(relative)
        path = self._path(relative)
        if listed is None or not path.is_file():
            raise UserError(f"{path} is missing. Copy the model folder again, or train again.")
        try:
            content = path.read_bytes()
        except OSError as error:
            raise UserError(f"{path} cannot be read: {error.strerror or error}.") from error
        if len(content) != listed["bytes"] or hashlib.sha256(content).hexdigest() != listed["sha256"]:
            raise UserError(f"{path} is damaged: its size or sha256 differs from the manifest's. Copy it again.")
        try:
            return unpack(content)
        except SafetensorError as error:
            raise UserError(f"{path} is no safetensors file ({error}). Copy it again.") from error


def _is_sound(manifest: Mapping[str, Any]) -> bool:
    """Whether everything that readers look for in a manifest is there and of its type."""
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
            and isinstance(entry.get("settings", {}), dict)
            and all(isinstance(entry.get("settings", {}).get(part, {}), dict) for part in _OWN_PARTS)
            for entry in experts
        )
    )
