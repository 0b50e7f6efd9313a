"""Tests of the device of a process; they need no GPU."""

import pytest
import torch
from omegaconf import OmegaConf

from moleflow.training import trainer
from moleflow.training.trainer import job_trainer, retain_freed_memory, trainer_device
from moleflow.utils.errors import UserError

GPU = {"accelerator": "gpu", "devices": 1, "precision": "32-true"}


@pytest.fixture
def four_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)


@pytest.mark.usefixtures("four_gpus")
def test_device_is_that_of_the_trainer(monkeypatch: pytest.MonkeyPatch) -> None:
    assert trainer_device(GPU) == trainer_device(GPU | {"accelerator": "auto"}) == torch.device("cuda", 0)
    assert trainer_device(GPU | {"devices": [3]}) == torch.device("cuda", 3)
    assert trainer_device(OmegaConf.create(GPU | {"devices": [3]})) == torch.device("cuda", 3)
    assert trainer_device(GPU | {"accelerator": "cpu"}) == torch.device("cpu")
    monkeypatch.setattr(trainer, "process_rank", lambda: 1)
    assert trainer_device(GPU | {"devices": 2}) == torch.device("cuda", 1)
    assert trainer_device(GPU | {"devices": [2, 3]}) == torch.device("cuda", 3)


def test_unknown_accelerator_is_an_error() -> None:
    with pytest.raises(UserError, match=r"trainer\.accelerator=gpus is unknown"):
        trainer_device(GPU | {"accelerator": "gpus"})


@pytest.mark.usefixtures("four_gpus")
def test_concurrent_jobs_use_the_gpus_in_turn() -> None:
    settings = [job_trainer(GPU, job) for job in range(1, 9)]
    assert [trainer_device(each).index for each in settings] == [1, 2, 3, 0, 1, 2, 3, 0]
    assert all(each | {"devices": 1} == GPU for each in settings)
    assert job_trainer(GPU | {"devices": [2]}, 1) == GPU | {"devices": [2]}, "the user's choice of a GPU"
    assert job_trainer(GPU | {"accelerator": "cpu"}, 1) == GPU | {"accelerator": "cpu"}


def test_jobs_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert job_trainer(GPU | {"accelerator": "auto"}, 1) == GPU | {"accelerator": "auto"}
    with pytest.raises(UserError, match="trainer=cpu"):
        job_trainer(GPU, 1)


def test_memory_allocator_accepts_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    retain_freed_memory()
    monkeypatch.setattr("ctypes.CDLL", lambda name: object())
    assert not retain_freed_memory()
