"""The model folder: base, experts and manifest as checksummed files.

    base.safetensors            tensors shared by all experts
    experts/<name>.safetensors  one expert each: weights, training features and training scores; a long name is cut
    manifest.json               settings, experts, and size and sha256 of every file; written last

A listed file is never overwritten: a changed base is written to ``base.<digest>.safetensors``, and the previous one is
removed after the manifest lists the new one. A kill at any moment leaves a folder that agrees with its manifest.

No pickle is read, and nothing in the folder is executed.
"""

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from safetensors import SafetensorError, safe_open
from torch import Tensor

from moleflow.detector.manifest import FORMAT, MAX_TENSOR_BYTES, check_manifest
from moleflow.models.tensor_rule import TensorRule, describe_shape
from moleflow.utils.errors import UserError
from moleflow.utils.io import (
    MAX_JSON_BYTES,
    open_regular,
    read_checksummed_json,
    sha256,
    shorten_name,
    write_bytes,
    write_checksummed_json,
)
from moleflow.utils.serialization import dtype_name, tensors_to_bytes
from moleflow.utils.text import one_line

TensorRules = Mapping[str, TensorRule]
"""Rules for the tensors of a file by name."""


class ModelStore:
    """Reads and writes a model folder.

    Args:
        folder: The model folder; created by :meth:`save`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._manifest: tuple[tuple[int, ...], dict[str, Any]] | None = None

    @property
    def manifest_path(self) -> Path:
        """Path of the manifest, which is written last."""
        return self.folder / "manifest.json"

    def manifest(self) -> dict[str, Any]:
        """Return the manifest, which is read again only after its file was replaced.

        Raises:
            UserError: If it is missing, damaged, of another format, or has an entry that is not allowed.
        """
        try:
            status = self.manifest_path.stat()
        except OSError as error:
            raise UserError(f"{self.manifest_path} is missing.") from error
        version = (status.st_ino, status.st_mtime_ns, status.st_size)
        if self._manifest is None or self._manifest[0] != version:
            manifest = read_checksummed_json(self.manifest_path)
            check_manifest(manifest, self.manifest_path)
            self._manifest = version, manifest
        return self._manifest[1]

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

    def base_file(self) -> str:
        """Return the path of the tensors shared by all experts, relative to the folder."""
        return str(self.manifest()["base"])

    def expert_file(self, name: str) -> str:
        """Return the path of one expert's tensors, relative to the folder.

        Raises:
            UserError: If there is no such expert.
        """
        for entry in self.manifest()["experts"]:
            if entry["name"] == name:
                return str(entry["file"])
        raise UserError(f"{self.manifest_path} lists no expert named {name!r}.")

    def base(self, rules: TensorRules | None = None) -> dict[str, Tensor]:
        """Return the tensors shared by all experts; see :meth:`read`."""
        return self.read(self.base_file(), rules)

    def expert(self, name: str, rules: TensorRules | None = None) -> dict[str, Tensor]:
        """Return one expert's tensors; see :meth:`read`."""
        return self.read(self.expert_file(name), rules)

    def check(self) -> None:
        """Compare size and sha256 of every file of the model with the manifest.

        Raises:
            UserError: If a file is missing or damaged.
        """
        for relative in self.manifest()["files"]:
            self.read(relative)

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
            raise UserError(f"{self.manifest_path} lists a file outside its folder: {one_line(relative, 120)}.")
        return path

    def read(self, relative: str, rules: TensorRules | None = None) -> dict[str, Tensor]:
        """Return the tensors of a listed file, after comparing it with the manifest and with rules.

        Args:
            relative: Path of the file in the folder.
            rules: Rules for the tensors by name; None: any tensors with finite values are allowed.

        Raises:
            UserError: If the file is missing, damaged or no safetensors file, or a tensor is missing, surplus, of the
                wrong type or shape, or has a value that is not allowed.
        """
        self.check_header(relative, rules)
        path = self._path(relative)
        listed = self.manifest()["files"][relative]
        with _file_errors(path):
            if sha256(path) != listed["sha256"]:
                raise UserError(f"{path} is damaged: its sha256 differs from the manifest. Copy it again.")
            with safe_open(path, framework="pt") as file:
                # Copies: tensors inside a file may be unaligned, where kernels may round differently.
                tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118  # no mapping
        for name, tensor in tensors.items():
            rule = TensorRule(tuple(tensor.shape), tensor.dtype) if rules is None else rules[name]
            if fault := rule.fault(tensor):
                raise UserError(f"{path}: {one_line(name, 120)} {fault}. Copy the model folder again, or retrain.")
        return tensors

    def check_header(self, relative: str, rules: TensorRules | None = None) -> None:
        """Check size, names, types and shapes of the tensors of a listed file without reading their values.

        Args:
            relative: Path of the file in the folder.
            rules: Rules for the tensors by name; None: any tensors are allowed.

        Raises:
            UserError: If the file is missing, of another size or no safetensors file, or a tensor is missing, surplus,
                or of the wrong type or shape.
        """
        path, listed = self._path(relative), self.manifest()["files"].get(relative)
        if listed is None or not path.exists():
            raise UserError(f"{path} is missing. Copy the model folder again, or retrain.")
        with _file_errors(path):
            with open_regular(path, MAX_TENSOR_BYTES) as content:
                length = int.from_bytes(content.read(8), "little")
            size = path.stat().st_size
            if size != listed["bytes"]:
                raise UserError(
                    f"{path} is damaged: it has {size} bytes, and {listed['bytes']} in the manifest. Copy it again."
                )
            if length > MAX_JSON_BYTES:
                raise SafetensorError(f"its header has {length} bytes and must have at most {MAX_JSON_BYTES}")
            with safe_open(path, framework="pt") as file:
                slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118  # no mapping
                header = {name: (str(each.get_dtype()), tuple(each.get_shape())) for name, each in slices.items()}
        if rules is not None:
            _check_tensors(path, header, rules)


def _check_tensors(path: Path, header: Mapping[str, tuple[str, tuple[int, ...]]], rules: TensorRules) -> None:
    """Check names, types and shapes of the tensors of a file.

    Raises:
        UserError: If one differs from the rules.
    """
    remedy = "The file does not belong to the settings in the manifest: copy the model folder again, or retrain."
    for name in {name for name, rule in rules.items() if not rule.optional} - header.keys():
        raise UserError(f"{path}: the tensor {name} is missing. {remedy}")
    for name in header.keys() - rules.keys():
        raise UserError(f"{path}: the tensor {one_line(name, 120)} is unknown. {remedy}")
    sizes: dict[str, tuple[int, str]] = {}  # size of each named axis, and the tensor that it was taken from
    for name, rule in rules.items():
        if name not in header:
            continue
        dtype, shape = header[name]
        if dtype != dtype_name(rule.dtype):
            raise UserError(f"{path}: {name} has the type {dtype} and must have {dtype_name(rule.dtype)}. {remedy}")
        expected = [sizes.get(axis, (axis, ""))[0] if isinstance(axis, str) else axis for axis in rule.shape]
        matches = len(shape) == len(expected) and all(
            size >= 1 if isinstance(axis, str) else size == axis for size, axis in zip(shape, expected, strict=True)
        )
        if not matches:
            named = {axis: f"{axis} = {sizes[axis][0]}, as {sizes[axis][1]}" for axis in rule.shape if axis in sizes}
            free = [f"{axis} at least 1" for axis in expected if isinstance(axis, str)]
            where = f" with {', '.join([*named.values(), *free])}" if named or free else ""
            raise UserError(
                f"{path}: {name} has the shape {describe_shape(shape)} and must have {describe_shape(rule.shape)}"
                f"{where}. {remedy}"
            )
        for size, axis in zip(shape, rule.shape, strict=True):
            if isinstance(axis, str):
                sizes.setdefault(axis, (size, name))


@contextmanager
def _file_errors(path: Path) -> Iterator[None]:
    """Turn the errors of reading a file of tensors into messages with its path.

    Raises:
        UserError: In place of an error of the file system or of the format.
    """
    try:
        yield
    except SafetensorError as error:
        raise UserError(f"{path} is not a safetensors file ({one_line(str(error), 200)}). Copy it again.") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}.") from error
    except ValueError as error:
        raise UserError(f"{path} cannot be read: {error}. Copy it again.") from error
