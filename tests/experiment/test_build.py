"""Tests of objects that are built from a configuration, and of checks of its values."""

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from helpers.composing import once
from helpers.program import TINY
from helpers.trees import write_mvtec_tree
from moleflow.experiment import build
from moleflow.experiment.build import (
    build_data,
    build_training_config,
    check_values,
    feature_cache,
    features_batch_size,
    instantiate,
    model_settings,
)
from moleflow.utils.errors import UserError


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return the resolved configuration of a small run that no test changes."""
    tree = write_mvtec_tree(tmp_path_factory.mktemp("tree"), ["bottle"], train=4, good=1, defect=1)
    return once("dataset=folder", "dataset.root=unset", *TINY) | {
        "dataset": {
            "_target_": "moleflow.data.datamodule.FolderDataModule", "root": str(tree), "categories": None
        }
    }  # fmt: skip


def changed(settings: dict[str, Any], key: str, value: Any) -> dict[str, Any]:
    """Return a copy of the settings with another value of a dotted key."""
    result = copy.deepcopy(settings)
    *groups, last = key.split(".")
    group = result
    for name in groups:
        group = group[name]
    group[last] = value
    return result


def test_data_module_has_the_values_of_the_run(settings: dict[str, Any]) -> None:
    data = build_data(changed(changed(settings, "validation", 1), "masks", "full"))
    assert data.categories == ("bottle",)
    assert data.full_masks
    assert data.batch_size == 1  # features.batch_size=auto on a CPU
    assert [len(part) for part in data.split("bottle")] == [3, 1]


@pytest.mark.parametrize(
    ("key", "remedy"),
    [
        ("seed", "seed"),
        ("validation", "validation"),
        ("masks", "masks"),
        ("batch_size", "features.batch_size"),
        ("num_workers", "features.num_workers"),
    ],
)
def test_keys_that_the_run_determines_cannot_be_set_for_the_data(
    key: str, remedy: str, settings: dict[str, Any]
) -> None:
    message = rf"^dataset\.{key} cannot be set: the run determines it\. Set {remedy} instead\.$"
    with pytest.raises(UserError, match=message):
        build_data(changed(settings, f"dataset.{key}", 3))


def test_batch_size_of_the_features(settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    assert features_batch_size(settings) == 1
    assert features_batch_size(settings, torch.device("cuda")) == 32
    assert features_batch_size(changed(settings, "features.batch_size", 7)) == 7
    for value in (0, "many", 2.5):
        with pytest.raises(UserError, match=f"features.batch_size={value} must be auto or at least 1"):
            features_batch_size(changed(settings, "features.batch_size", value))
    gpu = changed(settings, "trainer.accelerator", "gpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert features_batch_size(gpu, torch.device("cpu")) == 1, "an ensemble of GPU runs is evaluated on a CPU"
    with pytest.raises(UserError, match="trainer=cpu"):
        features_batch_size(gpu)


def test_settings_of_a_model_folder(settings: dict[str, Any]) -> None:
    result = model_settings(settings)
    assert list(result) == ["backbone", "transform", "model", "router", "scoring", "features"]
    assert result["features"] == {"batch_size": 1, "dtype": "float32"}
    assert "oracle" not in result["router"]
    assert "oracle" in settings["router"]


def test_feature_cache(settings: dict[str, Any]) -> None:
    assert feature_cache(settings) == "memory"
    assert feature_cache(changed(settings, "features.cache_dir", "~/cache")) == Path.home() / "cache"


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("seed", -1, "at least 0"),
        ("seed", True, "a whole number"),
        ("progress", "no", "true or false"),
        ("features.num_workers", -1, "at least 0"),
        ("optimizer.lr", 0, "greater than 0"),
        ("optimizer.lr", math.inf, "finite"),
        ("optimizer.lr", math.nan, "greater than 0"),
        ("optimizer.lr", "1e-3", "a number"),
        ("optimizer.gradient_clip", "off", "a number or null"),
        ("router.oracle", 1, "true or false"),
    ],
)
def test_values_of_no_component_are_checked(key: str, value: Any, message: str, settings: dict[str, Any]) -> None:
    check_values(settings)
    with pytest.raises(UserError, match=rf"^{key}=.* must be .*{message}"):
        check_values(changed(settings, key, value))


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("epochs", 0, r"^epochs=0 must be a whole number of at least 1"),
        ("batch_size", 1.5, r"^batch_size=1\.5 must be a whole number"),
        ("scenario.experts", "tasks", r"^scenario\.experts=tasks is unknown.*'task'"),
        ("optimizer.on_nonfinite", "ignore", r"^optimizer\.on_nonfinite=ignore is unknown"),
        ("optimizer.algorithm.wait_decay", 1, r"^optimizer\.algorithm.*wait_decay"),
        ("augmentation", "turns", r"^augmentation=turns is unknown"),
        ("loss.tail_weight", -1, r"^loss\.tail_weight=-1 must"),
        (
            "per_category",
            {"bottle": {"loss": {"tail_weight": "x"}}},
            r"^per_category\.bottle\.loss\.tail_weight=x must",
        ),
        ("continual", {"_target_": "moleflow.training.strategies.replay.Replay", "images": 0}, r"^continual\.images=0"),
        ("continual", {"_target_": "moleflow.training.strategies.replay.Replay", "size": 3}, r"^continual: .*size"),
    ],
)
def test_values_of_the_training_are_checked(key: str, value: Any, message: str, settings: dict[str, Any]) -> None:
    invalid = changed(settings, key, value)
    with pytest.raises(UserError, match=message):
        build_training_config(OmegaConf.create(invalid), invalid, ["bottle"])


def test_training_config_has_the_losses_of_the_overrides(settings: dict[str, Any]) -> None:
    valid = changed(settings, "per_category", {"bottle": {"loss": {"tail_weight": 1.0}, "epochs": 3}})
    training = build_training_config(OmegaConf.create(valid), valid, ["bottle"])
    assert training.epochs == settings["epochs"]
    assert training.loss_of(["bottle"]).tail_weight == 1.0
    assert training.loss.tail_weight == settings["loss"]["tail_weight"]


def test_errors_of_instantiation_are_user_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    assert instantiate("key", {"_target_": "builtins.int"}) == 0
    with pytest.raises(UserError, match=r"^trainer: .*invalid literal"):
        instantiate("trainer", {"_target_": "builtins.int", "_args_": ["x"]})
    with pytest.raises(UserError, match=r"^key: .*absent"):
        instantiate("key", {"_target_": "moleflow.absent.Class"})
    error = UserError("as it is")
    monkeypatch.setattr(build, "feature_cache", lambda settings: (_ for _ in ()).throw(error))
    with pytest.raises(UserError, match=r"^as it is$"):
        instantiate("key", {"_target_": "moleflow.experiment.build.feature_cache", "settings": {}})


@pytest.mark.parametrize(
    ("model", "scope"),
    [("moleflow", "task"), ("whitened", "task"), ("gaussian", "category"), ("patchcore", "category")],
)
def test_closed_form_experts_are_of_categories_by_default(model: str, scope: str) -> None:
    settings = once("dataset=folder", "dataset.root=unset", f"model={model}", "backbone.dim=16")
    assert build._expert_scope(settings) == scope
    assert build._expert_scope(changed(settings, "scenario.experts", "task")) == "task"
