"""Tests of the model folder: damaged files, paths outside the folder, and kills at any write."""

import hashlib
import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch

from fault_injection.scenarios import DAMAGES
from moleflow.detector.store import ENSEMBLE_FILE, ModelStore, model_folder
from moleflow.utils.errors import UserError
from moleflow.utils.io import read_checksummed_json, write_checksummed_json


def tensors(value: float) -> dict[str, torch.Tensor]:
    return {"weight": torch.full((3, 5), value), "bias": torch.arange(7.0)}


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    store = ModelStore(tmp_path / "model")
    save(store, 1.0)
    return store


ENTRY = {"categories": ["bottle", "flask"], "overrides": {"epochs": 3, "model": {"adapter": "none"}}}


def save(store: ModelStore, base: float) -> None:
    store.save({"a": 1}, tensors(base), {"bottle": tensors(2.0)}, {"bottle": ENTRY})


def read(store: ModelStore) -> list[dict[str, torch.Tensor]]:
    return [store.base(), store.expert("bottle")]


def test_round_trip(store: ModelStore) -> None:
    assert store.manifest()["settings"] == {"a": 1}
    assert store.entries() == {"bottle": ENTRY}
    for stored, expected in zip(read(store), (tensors(1.0), tensors(2.0)), strict=True):
        assert stored.keys() == expected.keys()
        assert all(torch.equal(stored[name], value) for name, value in expected.items())
    store.check()
    with pytest.raises(UserError, match=r"manifest\.json lists no expert named 'screw'"):
        store.expert("screw")


def test_any_name_of_an_expert_is_a_file_name(store: ModelStore) -> None:
    names = ["a/b", "../c", "bottle+cable", "tür 1"]
    entry = {"categories": ["a"]}
    store.save({}, {}, {name: tensors(i) for i, name in enumerate(names)}, dict.fromkeys(names, entry))
    assert list(store.entries()) == names
    for i, name in enumerate(names):
        assert torch.equal(store.expert(name)["weight"], tensors(i)["weight"])
    assert {path.parent.name for path in store.folder.rglob("*.safetensors")} == {"model", "experts"}


def test_model_folder_of_a_run_folder(store: ModelStore, tmp_path: Path) -> None:
    assert model_folder(store.folder) == model_folder(tmp_path) == store.folder
    with pytest.raises(UserError, match="absent does not exist"):
        model_folder(tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"empty has no model: .*manifest\.json is missing"):
        model_folder(tmp_path / "empty")
    (tmp_path / "empty" / ENSEMBLE_FILE).touch()
    with pytest.raises(UserError, match="empty is an ensemble without experts"):
        model_folder(tmp_path / "empty")


@pytest.mark.parametrize("name", ["base.safetensors", "experts/bottle.safetensors", "manifest.json"])
@pytest.mark.parametrize("kind", [kind for kind in DAMAGES if kind != "block of zeros"])
def test_damaged_file_is_an_error_with_its_name(store: ModelStore, name: str, kind: str) -> None:
    path = store.folder / name
    content = DAMAGES[kind](path.read_bytes(), random.Random(0))
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)
    for access in (read, ModelStore.check):
        with pytest.raises(UserError, match=path.name):
            access(store)


def test_changed_byte_of_a_manifest_is_an_error_or_white_space(store: ModelStore) -> None:
    content = store.manifest_path.read_bytes()
    manifest = store.manifest()
    for position in range(len(content)):
        changed = bytearray(content)
        changed[position] ^= 1 << position % 8
        store.manifest_path.write_bytes(changed)
        try:
            assert store.manifest() == manifest
        except UserError as error:
            assert "manifest.json" in str(error)  # noqa: PT017  # equal content is as valid as an error


@pytest.mark.parametrize("name", ["../outside.safetensors", "/etc/passwd", "experts/../../outside.safetensors", "link"])
def test_manifest_with_a_file_outside_its_folder_is_an_error(store: ModelStore, name: str) -> None:
    outside = store.folder.parent / "outside.safetensors"
    outside.write_bytes((store.folder / "base.safetensors").read_bytes())
    (store.folder / "link").symlink_to(outside)
    manifest = read_checksummed_json(store.manifest_path)
    manifest["files"][name] = manifest["files"][manifest["base"]]
    write_checksummed_json(store.manifest_path, manifest | {"base": name})
    with pytest.raises(UserError, match="outside its folder"):
        store.base()


@pytest.mark.parametrize(
    "change",
    [
        {"format": 99}, {"files": []}, {"files": {"base.safetensors": 3}},
        {"files": {"base.safetensors": {"bytes": "x"}}},
        {"experts": [{"name": "bottle"}]}, {"experts": {"bottle": 1}}, {"settings": None}, {"base": None},
        {"experts": [{"name": "bottle", "file": "x", "categories": "bottle"}]},
        {"experts": [{"name": "bottle", "file": "x", "categories": [], "overrides": {"model": 3}}]},
    ],
)  # fmt: skip
def test_manifest_of_another_structure_is_an_error(store: ModelStore, change: dict[str, Any]) -> None:
    write_checksummed_json(store.manifest_path, read_checksummed_json(store.manifest_path) | change)
    with pytest.raises(UserError, match="not a model manifest"):
        read(store)


def test_listed_file_of_another_format_is_an_error(store: ModelStore) -> None:
    content = b"\x80\x04\x95cos\nsystem\n(S'true'\ntR."  # a pickle
    (store.folder / "base.safetensors").write_bytes(content)
    manifest = read_checksummed_json(store.manifest_path)
    manifest["files"]["base.safetensors"] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    write_checksummed_json(store.manifest_path, manifest)
    with pytest.raises(UserError, match="not a safetensors file"):
        store.base()


@pytest.mark.parametrize("write", [0, 1])
def test_changed_base_agrees_with_the_manifest_after_a_kill(
    store: ModelStore, monkeypatch: pytest.MonkeyPatch, write: int
) -> None:
    """Kill before the base or before the manifest is renamed."""
    remaining = [write]
    replace = Path.replace

    def replace_or_stop(self: Path, target: Path) -> Path:
        remaining[0] -= 1
        if remaining[0] < 0:
            raise KeyboardInterrupt
        return replace(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", replace_or_stop)
        with pytest.raises(KeyboardInterrupt):
            save(store, 5.0)
    assert torch.equal(store.base()["weight"], tensors(1.0)["weight"])
    save(store, 5.0)
    assert torch.equal(store.base()["weight"], tensors(5.0)["weight"])
    assert len(list(store.folder.glob("base*"))) == 1


def test_unchanged_files_are_not_written_again(store: ModelStore) -> None:
    path = store.folder / "experts" / "bottle.safetensors"
    before = path.stat().st_ino
    save(store, 7.0)
    assert path.stat().st_ino == before


def test_invalid_json_is_an_error_with_its_path(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    for text in ("[" * 100_000, "\ud800".encode("utf-8", "surrogatepass"), "{}", "null", json.dumps({"checksum": 1})):
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        with pytest.raises(UserError, match=r"x\.json"):
            read_checksummed_json(path)
