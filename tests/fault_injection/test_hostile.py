"""Short form of the attacks on model and run folders; ``python -m tests.fault_injection hostile`` is the long one."""

import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from fault_injection.hostile import (
    ESCAPES,
    FILES,
    HostileFolders,
    attack,
    attack_entry,
    check_verdicts,
    commands_on,
    seal,
)
from helpers.detectors import SmallRun
from helpers.program import TINY
from moleflow.detector.detector import MoLEFlow
from moleflow.utils.errors import UserError
from moleflow.utils.io import read_checksummed_json, write_checksummed_json

SEEDS = range(1000, 1003)


@pytest.fixture(scope="module")
def folders(small_run: SmallRun, tmp_path_factory: pytest.TempPathFactory) -> HostileFolders:
    data = ["dataset=folder", f"dataset.root={small_run.tree}", "dataset.categories=[bottle,screw]"]
    overrides = [*TINY, *data, "epochs=8", "optimizer.lr=3e-3", "callbacks=default"]
    return HostileFolders(small_run.folder, small_run.tree, tmp_path_factory.mktemp("hostile"), overrides)


@pytest.mark.parametrize("seed", SEEDS)
def test_commands_end_with_a_result_or_a_message(folders: HostileFolders, seed: int) -> None:
    unfinished = seed % 2 == 1
    folder = folders.copy(str(seed), unfinished)
    change = attack(folder, seed)
    for command in commands_on(change, unfinished):
        outcome = folders.outcome(command, folder)
        assert outcome.is_allowed, f"{command} after {change}: {outcome}"


def test_commands_on_an_unchanged_copy_end_with_a_result(folders: HostileFolders) -> None:
    folder = folders.copy("unchanged", unfinished=False)
    seal(folder)
    for command in ("load", "predict", "merge-experts"):
        outcome = folders.outcome(command, folder)
        assert outcome.kind == "done", outcome


Attack = Callable[[Path], object]


def setting(**changes: object) -> Attack:
    """Return an attack that changes settings in the manifest, whose names have ``__`` between nested keys."""

    def attack(model: Path) -> None:
        manifest = read_checksummed_json(model / "manifest.json")
        for name, value in changes.items():
            *parents, last = name.split("__")
            target = manifest["settings"]
            for parent in parents:
                target = target[parent]
            if value is None:
                del target[last]
            else:
                target[last] = value
        write_checksummed_json(model / "manifest.json", manifest)

    return attack


def tensor(name: str, change: Callable[[torch.Tensor], torch.Tensor | None]) -> Attack:
    """Return an attack that changes or removes a tensor of the expert bottle."""

    def attack(model: Path) -> None:
        path = model / "experts" / "bottle.safetensors"
        tensors = load_file(path)
        changed = change(tensors.pop(name, torch.zeros(3)))
        save_file(tensors if changed is None else tensors | {name: changed}, path)

    return attack


NAMED: dict[str, tuple[Attack, str]] = {
    "nan_score": (tensor("training.scores", lambda t: t * torch.nan), "training.scores has 12 values that are not"),
    "infinite_map": (tensor("training.maxima", lambda t: t / 0), "training.maxima has 12 values that are not finite"),
    "unequal_lengths": (tensor("training.scores", lambda t: t[1:]), r"scores has the shape \(11\) and must have \(N\)"),
    "no_images": (tensor("training.features", lambda t: t[:0]), r"features has the shape \(0, 16\) .* N at least 1"),
    "missing_tensor": (tensor("model.dia.0.scale.first.bias", lambda t: None), "dia.0.scale.first.bias is missing"),
    "surplus_tensor": (tensor("model.x", lambda t: t), "the tensor model.x is unknown"),
    "escapes": (tensor(ESCAPES, lambda t: t), r"the tensor \\x1b\]0;title\\x07\\x1b\[31mred is unknown"),
    "wrong_type": (tensor("training.scores", torch.Tensor.double), "scores has the type F64 and must have F32"),
    "gigantic_layers": (setting(model__coupling_layers=10**9), "model.coupling_layers=1000000000 must be at most 256"),
    "gigantic_dim": (setting(model__dim=10**12), "model.dim=1000000000000 must be at most 16384"),
    "other_dim": (setting(model__dim=4096, backbone__dim=4096), r"has the shape .* and must have .*4096"),
    "gigantic_image": (setting(transform__size=10**6), "transform.size=1000000 must be at most 4096"),
    "gigantic_batch": (setting(features__batch_size=10**9), r"features.batch_size=1000000000 must lie in \[1, 1024\]"),
    "settings_list": (setting(model=[1]), r"model=\[1\] must map keys to values"),
    "unhashable_target": (setting(model___target_=["x"]), r"model._target_=\['x'\] is not allowed"),
    "no_spec": (setting(backbone_spec=None), "settings.backbone_spec is null and must be a mapping"),
    "no_dim": (setting(backbone__dim=None), "backbone lacks dim"),
    "surplus_setting": (setting(x=3), "x is no setting of a model"),
    "manifest_pipe": (lambda model: FILES["pipe"](model / "manifest.json"), "manifest.json is not a regular file"),
    "manifest_1_gb": (lambda model: FILES["1 GB"](model / "manifest.json"), "has 1000000000 bytes and must have"),
}  # fmt: skip
"""Attacks on a model folder by name, and a part of the message."""


@pytest.mark.parametrize("name", NAMED)
def test_message_names_file_key_and_what_is_allowed(small_run: SmallRun, tmp_path: Path, name: str) -> None:
    model = shutil.copytree(small_run.folder / "model", tmp_path / "model")
    attack, message = NAMED[name]
    attack(model)
    seal(tmp_path)
    with pytest.raises(UserError, match=message) as error:
        MoLEFlow.load(model)
    assert str(model) in str(error.value)


def test_verdict_without_a_threshold_is_found(tmp_path: Path) -> None:
    path = tmp_path / "predictions.json"
    path.write_text('{"predictions": [{"verdict": "normal", "score": 0.5, "threshold": null}]}')
    with pytest.raises(AssertionError, match='"threshold": null'):
        check_verdicts(path)


def test_attacks_differ_and_are_reproducible(folders: HostileFolders) -> None:
    def changes(name: str) -> list[str]:
        folder = folders.copy(name, unfinished=False)
        return [attack_entry(folder, "metrics.json", random.Random(seed)) for seed in range(4)]

    first = changes("first")
    assert first == changes("second")
    assert len(set(first)) > 1


def test_checksum_of_a_device_is_not_computed(tmp_path: Path) -> None:
    (tmp_path / "metrics.json").symlink_to("/dev/zero")
    write_checksummed_json(tmp_path / "status.json", {"status": "finished", "files": {"metrics.json": {}}})
    seal(tmp_path)
    files = read_checksummed_json(tmp_path / "status.json")["files"]
    assert files == {"metrics.json": {"bytes": 0, "sha256": "0" * 64}}
