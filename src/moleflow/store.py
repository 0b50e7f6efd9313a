"""The model folder: base, experts and manifest as files that can be checked, shipped and recombined.

    base.safetensors            what all experts share
    experts/<name>.safetensors  one expert each: its weights and its router statistics
    manifest.json               settings, experts, and size and sha256 of every file; written last

No pickle is read, and nothing in the folder is executed.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from safetensors.torch import load_file, save
from torch import Tensor

from moleflow.errors import UserError
from moleflow.files import read_json, replacing, sha256, write_json

FORMAT = 1


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
        manifest = read_json(self.manifest_path)
        if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
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
        files = {"base.safetensors": self._write("base.safetensors", base)}
        listed = []
        for name, tensors in experts.items():
            relative = f"experts/{quote(name, safe='+ ,()')}.safetensors"
            files[relative] = self._write(relative, tensors)
            listed.append({"name": name, "file": relative, **notes[name]})
        write_json(
            self.manifest_path,
            {"format": FORMAT, "settings": dict(settings), "experts": listed, "files": files},
        )

    def base(self) -> dict[str, Tensor]:
        """Return the shared tensors, checked against the manifest."""
        return self._read("base.safetensors")

    def expert(self, name: str) -> dict[str, Tensor]:
        """Return one expert's tensors, checked against the manifest."""
        for entry in self.manifest()["experts"]:
            if entry["name"] == name:
                return self._read(str(entry["file"]))
        raise UserError(f"{self.manifest_path} lists no expert named {name!r}.")

    def _write(self, relative: str, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
        path = self.folder / relative
        content = save({key: value.detach().cpu().contiguous() for key, value in tensors.items()})
        listed = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        if not path.is_file() or sha256(path) != listed["sha256"]:
            with replacing(path) as temporary:
                temporary.write_bytes(content)
        return listed

    def _read(self, relative: str) -> dict[str, Tensor]:
        listed = self.manifest()["files"].get(relative)
        path = (self.folder / relative).resolve()
        if not path.is_relative_to(self.folder.resolve()):
            raise UserError(f"{self.manifest_path} names a file outside its folder: {relative}. It is refused.")
        if listed is None or not path.is_file():
            raise UserError(f"{path} is missing. Copy the model folder again, or train again.")
        if path.stat().st_size != listed["bytes"] or sha256(path) != listed["sha256"]:
            raise UserError(f"{path} is damaged: its size or sha256 differs from the manifest's. Copy it again.")
        return load_file(path)
