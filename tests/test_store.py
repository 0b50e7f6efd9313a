"""The model folder: every damage is named, nothing leads outside, and a kill at any write leaves it consistent."""

import hashlib
import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch

from faults.scenarios import DAMAGES
from moleflow.errors import UserError
from moleflow.files import read_sealed, write_sealed
from moleflow.store import ExpertStore


def tensors(value: float) -> dict[str, torch.Tensor]:
    return {"weight": torch.full((3, 5), value), "bias": torch.arange(7.0)}


@pytest.fixture
def store(tmp_path: Path) -> ExpertStore:
    made = ExpertStore(tmp_path / "model")
    save(made, 1.0)
    return made


def save(store: ExpertStore, base: float) -> None:
    store.save({"a": 1}, tensors(base), {"bottle": tensors(2.0)}, {"bottle": {"categories": ["bottle"]}})


def read(store: ExpertStore) -> list[dict[str, torch.Tensor]]:
    return [store.base(), store.expert("bottle")]


@pytest.mark.parametrize("name", ["base.safetensors", "experts/bottle.safetensors", "manifest.json"])
@pytest.mark.parametrize("kind", [kind for kind in DAMAGES if kind != "block of zeros"])
def test_every_damage_is_named_and_refused(store: ExpertStore, name: str, kind: str) -> None:
    path = store.folder / name
    content = DAMAGES[kind](path.read_bytes(), random.Random(0))
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)
    with pytest.raises(UserError, match=path.name):
        read(store)


def test_no_byte_of_a_manifest_can_change_unnoticed(store: ExpertStore) -> None:
    content = store.manifest_path.read_bytes()
    manifest = store.manifest()
    for position in range(len(content)):
        changed = bytearray(content)
        changed[position] ^= 1 << position % 8
        store.manifest_path.write_bytes(changed)
        try:
            assert store.manifest() == manifest  # white space
        except UserError as error:
            assert "manifest.json" in str(error)  # noqa: PT017  # either is right, a wrong manifest is not


@pytest.mark.parametrize("name", ["../outside.safetensors", "/etc/passwd", "experts/../../outside.safetensors", "link"])
def test_a_manifest_that_leads_outside_is_refused(store: ExpertStore, name: str) -> None:
    outside = store.folder.parent / "outside.safetensors"
    outside.write_bytes((store.folder / "base.safetensors").read_bytes())
    (store.folder / "link").symlink_to(outside)
    manifest = read_sealed(store.manifest_path)
    manifest["files"][name] = manifest["files"][manifest["base"]]
    write_sealed(store.manifest_path, manifest | {"base": name})
    with pytest.raises(UserError, match="outside its folder"):
        store.base()


@pytest.mark.parametrize(
    "change",
    [
        {"format": 99}, {"files": []}, {"files": {"base.safetensors": 3}},
        {"files": {"base.safetensors": {"bytes": "x"}}},
        {"experts": [{"name": "bottle"}]}, {"experts": {"bottle": 1}}, {"settings": None}, {"base": None},
    ],
)  # fmt: skip
def test_a_manifest_of_another_shape_is_refused(store: ExpertStore, change: dict[str, Any]) -> None:
    write_sealed(store.manifest_path, read_sealed(store.manifest_path) | change)
    with pytest.raises(UserError, match="not a model manifest"):
        read(store)


def test_a_listed_file_that_is_no_safetensors_is_refused(store: ExpertStore) -> None:
    content = b"\x80\x04\x95cos\nsystem\n(S'true'\ntR."  # a pickle
    (store.folder / "base.safetensors").write_bytes(content)
    manifest = read_sealed(store.manifest_path)
    manifest["files"]["base.safetensors"] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    write_sealed(store.manifest_path, manifest)
    with pytest.raises(UserError, match="no safetensors file"):
        store.base()


@pytest.mark.parametrize("write", [0, 1])
def test_a_base_that_moves_never_disagrees_with_its_manifest(
    store: ExpertStore, monkeypatch: pytest.MonkeyPatch, write: int
) -> None:
    """Die before the base's or before the manifest's rename."""
    left = [write]
    replace = Path.replace

    def die(self: Path, target: Path) -> Path:
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return replace(self, target)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", die)
        with pytest.raises(KeyboardInterrupt):
            save(store, 5.0)
    assert torch.equal(store.base()["weight"], tensors(1.0)["weight"])
    save(store, 5.0)
    assert torch.equal(store.base()["weight"], tensors(5.0)["weight"])
    assert len(list(store.folder.glob("base*"))) == 1


def test_what_did_not_change_is_not_written_again(store: ExpertStore) -> None:
    path = store.folder / "experts" / "bottle.safetensors"
    before = path.stat().st_ino
    save(store, 7.0)
    assert path.stat().st_ino == before


def test_a_deep_or_odd_json_is_one_message(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    for text in ("[" * 100_000, "\ud800".encode("utf-8", "surrogatepass"), "{}", "null", json.dumps({"seal": 1})):
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        with pytest.raises(UserError, match=r"x\.json"):
            read_sealed(path)
