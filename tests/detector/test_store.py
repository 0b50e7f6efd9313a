"""Tests of the model folder: damaged files, paths outside the folder, and kills at any write."""

import hashlib
import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch

from fault_injection.scenarios import DAMAGES
from moleflow.detector.folders import ENSEMBLE_FILE, model_folder
from moleflow.detector.store import ModelStore
from moleflow.models.tensor_rule import TensorRule
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
    manifest["files"][name] = manifest["files"].pop(manifest["base"])
    write_checksummed_json(store.manifest_path, manifest | {"base": name})
    with pytest.raises(UserError, match="outside its folder"):
        store.base()


EXPERT = {"name": "bottle", "file": "experts/bottle.safetensors", "categories": ["bottle"]}
DIGEST = {"bytes": 9, "sha256": "0" * 64}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 99}, "not a model manifest of format=1 or 2: format is 99"),
        ({"format": True}, "format is true"),
        ({"x": 1e999}, "x is inf and must be finite"),
        ({"x": "y" * 20_000}, "x has 20000 characters"),
        ({"files": []}, r"files is \[\] and must be a mapping of paths"),
        ({"files": {"base.safetensors": 3}}, r"files\.base\.safetensors is 3 and must be a mapping"),
        ({"files": {"base.safetensors": DIGEST | {"bytes": "x"}}}, r'bytes is "x" and must be a number of bytes'),
        ({"files": {"base.safetensors": DIGEST | {"bytes": 2**40}}}, "must be a number of bytes from 1 to 2147483648"),
        ({"files": {"base.safetensors": DIGEST | {"sha256": "0"}}}, "must be 64 hexadecimal digits"),
        ({"files": {"a\0b": DIGEST}}, r'files is "a\\u0000b" and must be a path of at most 1000 bytes'),
        ({"files": {"a" * 300: DIGEST}}, "must be a path whose parts have at most 255 bytes"),
        ({"files": {}}, r"files is \[\] and must be a mapping that lists (base|experts/bottle)\.safetensors"),
        ({"experts": []}, r'files is "experts/bottle\.safetensors" and must be the path of the base or of an expert'),
        ({"experts": {"bottle": 1}}, "experts is .* and must be a list of experts"),
        ({"experts": [{"name": "bottle"}]}, r"experts\.0\.file is null and must be the path of a file"),
        ({"experts": [EXPERT] * 2}, r'experts\.1\.name is "bottle" and must be that of no other entry'),
        ({"experts": [EXPERT, EXPERT | {"name": "b"}]}, r"experts\.1\.file is .* and must be that of no other entry"),
        ({"experts": [EXPERT] * 1002}, "experts has 1002 entries and must have at most 1001"),
        ({"experts": [EXPERT | {"name": "\x1b[31mred"}]}, r'name is "\\u001b\[31mred" and must be a text of 1 to 500'),
        ({"experts": [EXPERT | {"name": "\ud800"}]}, "without control characters"),
        ({"experts": [EXPERT | {"categories": "bottle"}]}, r'categories is "bottle" and must be a list of names'),
        ({"experts": [EXPERT | {"categories": []}]}, r"categories has 0 entries"),
        ({"experts": [EXPERT | {"categories": [3]}]}, r"experts\.0\.categories\.0 is 3 and must be a text"),
        ({"experts": [EXPERT | {"overrides": {"model": 3}}]}, r"overrides\.model is 3 and must be a mapping of keys"),
        ({"experts": [EXPERT | {"overrides": {"feature_sets": {"a": 3}}}]}, r"feature_sets\.a is 3"),
        ({"settings": None}, "settings is null and must be a mapping"),
        ({"base": None}, "base is null and must be the path of a file"),
    ],
)
def test_manifest_of_another_structure_is_an_error(store: ModelStore, change: dict[str, Any], message: str) -> None:
    write_checksummed_json(store.manifest_path, read_checksummed_json(store.manifest_path))
    # Written without to_jsonable, which replaces infinity by null.
    content = read_checksummed_json(store.manifest_path) | change
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    store.manifest_path.write_text(json.dumps({**content, "checksum": digest}))
    with pytest.raises(UserError, match=message):
        read(store)


WEIGHT = TensorRule((3, 5))
BIAS = TensorRule(("N",))


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"weight": WEIGHT, "bias": BIAS, "scale": BIAS}, "the tensor scale is missing"),
        ({"weight": WEIGHT}, "the tensor bias is unknown"),
        ({"weight": TensorRule((3, 5), torch.float64), "bias": BIAS}, "weight has the type F32 and must have F64"),
        ({"weight": TensorRule((3, 4)), "bias": BIAS}, r"weight has the shape \(3, 5\) and must have \(3, 4\)\."),
        ({"weight": TensorRule(("N", 5)), "bias": BIAS}, r"bias .* \(7\) and must have \(N\) with N = 3, as weight"),
        ({"weight": WEIGHT, "bias": TensorRule(("N", "N"))}, r"bias .* must have \(N, N\) with N at least 1"),
        ({"weight": WEIGHT, "bias": TensorRule((7,), values="permutation")}, None),
    ],
)
def test_tensors_that_differ_from_the_rules_are_errors(
    store: ModelStore, rules: dict[str, TensorRule], message: str | None
) -> None:
    if message is None:
        assert store.expert("bottle", rules).keys() == rules.keys()
        return
    with pytest.raises(UserError, match=rf"bottle\.safetensors: .*{message}"):
        store.expert("bottle", rules)


def test_values_that_are_not_allowed_are_errors(store: ModelStore) -> None:
    values = {
        "a": (TensorRule((2,)), torch.tensor([1.0, torch.nan]), "a has 1 values that are not finite"),
        "b": (TensorRule((2,), torch.int64, "permutation"), torch.tensor([0, 2]), "b must be a permutation of 0 to 1"),
        "c": (TensorRule((2,), torch.float64, "moments"), torch.tensor([1.0, 0]).double(), r"c is mean=1, deviation=0"),
    }
    for name, (rule, tensor, message) in values.items():
        store.save({}, {name: tensor}, {}, {})
        with pytest.raises(UserError, match=message):
            store.base({name: rule})


def test_file_with_a_header_of_any_length_is_an_error(store: ModelStore) -> None:
    for length in (2**63, 2**25, 10**6, 0):
        content = length.to_bytes(8, "little") + b"{}"
        (store.folder / "base.safetensors").write_bytes(content)
        manifest = read_checksummed_json(store.manifest_path)
        manifest["files"]["base.safetensors"] = {"bytes": 10, "sha256": hashlib.sha256(content).hexdigest()}
        write_checksummed_json(store.manifest_path, manifest)
        with pytest.raises(UserError, match=r"base\.safetensors .*(header|not a safetensors file)"):
            store.base()


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
