"""Tests of later tasks as jobs of a launcher; tests/fault_injection has those of whole runs."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import OmegaConf

from moleflow.experiment import execution
from moleflow.experiment.parallel import _raise_failures, check_independent_tasks
from moleflow.models.flow.expert_flow import ExpertFlow
from moleflow.training.trainer import trainer_device
from moleflow.utils.errors import UserError

GPU = {"accelerator": "gpu", "devices": 1, "precision": "32-true"}


def test_worker_trains_on_its_own_gpu_and_the_run_on_the_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    devices: list[torch.device] = []

    def build(config: Any, settings: dict[str, Any], folder: Path) -> None:
        assert OmegaConf.to_container(config) == settings
        devices.append(trainer_device(settings["trainer"]))

    monkeypatch.setattr(execution, "build_continual_trainer", build)
    monkeypatch.setattr(execution, "train_task_in_job", lambda trainer, index, owner: None)
    for owner in (os.getpid(), os.getpid() + 1):
        execution._train_in_job({"trainer": GPU}, tmp_path, owner, 2)
    assert [device.index for device in devices] == [0, 2]


@pytest.mark.parametrize("devices", [1, "1", [3]])
def test_independent_tasks_on_one_device(devices: Any) -> None:
    check_independent_tasks(ExpertFlow(8, coupling_layers=1, lora_rank=2), GPU | {"devices": devices})


@pytest.mark.parametrize("settings", [{"base": "trainable"}, {"expert_start": "nearest"}])
def test_dependent_tasks_are_an_error(settings: dict[str, Any]) -> None:
    key, value = next(iter(settings.items()))
    with pytest.raises(UserError, match=rf"scenario\.parallel=true .* with model\.{key}={value} each task depends"):
        check_independent_tasks(ExpertFlow(8, coupling_layers=1, lora_rank=2, **settings), GPU)


@pytest.mark.parametrize("trainer", [{"devices": 2}, {"devices": [0, 1]}, {"num_nodes": 2}, {"strategy": "ddp_fork"}])
def test_tasks_over_several_processes_are_an_error(trainer: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"trains each task in one process, but trainer\.devices="):
        check_independent_tasks(ExpertFlow(8, coupling_layers=1, lora_rank=2), GPU | trainer)


def failure(error: Exception) -> JobReturn:
    return JobReturn(status=JobStatus.FAILED, _return_value=error)


def test_failed_jobs_are_listed_in_one_error() -> None:
    finished = JobReturn(status=JobStatus.COMPLETED)
    _raise_failures({"task 2/4 a": finished})
    failures = {"task 2/4 a": finished, "task 3/4 b": failure(UserError("task 3/4 b: the loss is nan."))}
    with pytest.raises(UserError, match=r"(?s)^1 of 2 jobs failed.*\n  task 3/4 b: the loss is nan\.$"):
        _raise_failures(failures)
    with pytest.raises(RuntimeError, match=r"(?s)^2 of 3 jobs failed.*\n  task 4/4 c: KeyError$") as error:
        _raise_failures(failures | {"task 4/4 c": failure(KeyError())})
    assert isinstance(error.value.__cause__, KeyError)
