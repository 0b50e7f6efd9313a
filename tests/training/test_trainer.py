"""Which device a process computes on; no GPU is needed to choose one."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from moleflow.experiment import run
from moleflow.training import trainer
from moleflow.training.trainer import device_of, own_device
from moleflow.utils.errors import UserError

GPU = {"accelerator": "gpu", "devices": 1, "precision": "32-true"}


@pytest.fixture
def four_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)


@pytest.mark.usefixtures("four_gpus")
def test_a_process_computes_where_its_trainer_does(monkeypatch: pytest.MonkeyPatch) -> None:
    assert device_of(GPU) == device_of(GPU | {"accelerator": "auto"}) == torch.device("cuda", 0)
    assert device_of(GPU | {"devices": [3]}) == torch.device("cuda", 3)
    assert device_of(OmegaConf.create(GPU | {"devices": [3]})) == torch.device("cuda", 3)  # type: ignore[arg-type]
    assert device_of(GPU | {"accelerator": "cpu"}) == torch.device("cpu")
    monkeypatch.setattr(trainer, "process_rank", lambda: 1)
    assert device_of(GPU | {"devices": 2}) == torch.device("cuda", 1)
    assert device_of(GPU | {"devices": [2, 3]}) == torch.device("cuda", 3)


@pytest.mark.usefixtures("four_gpus")
def test_jobs_beside_each_other_take_the_gpus_in_turn() -> None:
    dealt = [own_device(GPU, job) for job in range(1, 9)]
    assert [device_of(settings).index for settings in dealt] == [1, 2, 3, 0, 1, 2, 3, 0]
    assert all(settings | {"devices": 1} == GPU for settings in dealt)
    assert own_device(GPU | {"devices": [2]}, 1) == GPU | {"devices": [2]}, "a named GPU is the user's choice"
    assert own_device(GPU | {"accelerator": "cpu"}, 1) == GPU | {"accelerator": "cpu"}


def test_without_a_gpu_nothing_is_dealt_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert own_device(GPU | {"accelerator": "auto"}, 1) == GPU | {"accelerator": "auto"}
    with pytest.raises(UserError, match="trainer=cpu"):
        own_device(GPU, 1)


@pytest.mark.usefixtures("four_gpus")
def test_a_worker_learns_on_its_own_gpu_and_the_run_on_the_first(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    used: list[torch.device] = []

    def build(config: Any, settings: dict[str, Any], folder: Path) -> None:
        assert OmegaConf.to_container(config) == settings
        used.append(device_of(settings["trainer"]))

    monkeypatch.setattr(run, "build_sequence", build)
    monkeypatch.setattr(run, "learn_alone", lambda sequence, index, owner: None)
    for owner in (os.getpid(), os.getpid() + 1):
        run._learn_alone({"trainer": GPU}, tmp_path, owner, 2)
    assert [device.index for device in used] == [0, 2]
