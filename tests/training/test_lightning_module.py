"""Tests of the LightningModule: learning-rate schedule, delay of LoRA, and steps that are not finite."""

import logging
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from helpers.program import TINY, run_program
from helpers.stopping import stop_and_resume
from helpers.trees import write_mvtec_tree
from moleflow.models.flow.expert_flow import ExpertFlow
from moleflow.training.lightning_module import epoch_log_entry, learning_rate_factor
from moleflow.utils.errors import UserError


@pytest.mark.parametrize("epochs", [1, 2, 5, 60])
def test_schedule_of_the_first_task_is_the_cosine_of_torch(epochs: int) -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=3e-4)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=epochs, eta_min=3e-6)
    for epoch in range(epochs):
        assert 3e-4 * learning_rate_factor(epoch, epochs, warmup=False) == pytest.approx(cosine.get_last_lr()[0])
        optimizer.step()
        cosine.step()


def test_schedule_of_later_tasks_has_a_warmup_and_ends_two_epochs_early() -> None:
    factors = [learning_rate_factor(epoch, 60, warmup=True) for epoch in range(60)]
    assert factors[:3] == [0.5, 1.0, 1.0]
    assert factors[3] == learning_rate_factor(1, 60, warmup=False)
    assert 3e-4 * factors[-1] == pytest.approx(4.8e-6, abs=5e-8)


def test_log_entry_of_an_epoch() -> None:
    epoch = {"epoch": 4.0, "loss": 1.0, "held_out_nll": 2.0, "held_out_nll_counted": 3.0}
    expected = {"train/task": 1.0, "train/loss": 1.0, "val/nll": 2.0, "val/nll_counted": 3.0}
    assert epoch_log_entry(1, epoch) == expected


# -- in a run ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_mvtec_tree(tmp_path_factory.mktemp("mvtec"), ["bottle", "cable"], train=4, good=1, defect=1)


def command(root: Path, *overrides: str) -> list[str]:
    return ["dataset=folder", f"dataset.root={root}", *TINY, "epochs=3", *overrides]


def tensors(folder: Path, expert: str) -> dict[str, Tensor]:
    return load_file(folder / f"model/experts/{expert}.safetensors")


def test_steps_have_a_share_of_the_patches_that_depends_on_image_and_epoch(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sampled: list[dict[int, Tensor]] = []
    forward = ExpertFlow.forward

    def recording_forward(
        flow: ExpertFlow, x: Tensor, name: str, patches: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        z, logdet = forward(flow, x, name, patches)
        if patches is not None:
            assert z.shape == (len(x), 1, 16, 16)
            sampled[-1] |= {int(image[0, 0, 0] * 1e6): row for image, row in zip(x, patches, strict=True)}
        return z, logdet

    monkeypatch.setattr(ExpertFlow, "forward", recording_forward)
    for size in (2, 4):
        sampled.append({})
        options = ["dataset.categories=[bottle]", "epochs=1", "patch_share=0.25", "model.scale_context_kernel=null"]
        run_program([*command(root, *options), f"batch_size={size}"], tmp_path / str(size))
    two, four = sampled
    assert len(two) == 4
    assert two.keys() == four.keys()
    assert all(torch.equal(two[image], four[image]) for image in two)
    assert all(len(row.unique()) == 16 for row in two.values())
    assert not torch.equal(*list(two.values())[:2])


def test_lora_is_delayed_in_later_tasks_only(root: Path, tmp_path: Path) -> None:
    constant_lr = "optimizer.final_lr_ratio=1.0"
    run_program(command(root, "optimizer.lora_delay=2", constant_lr), tmp_path / "delayed")
    run_program(command(root, constant_lr), tmp_path / "plain")
    assert tensors(tmp_path / "delayed", "bottle").keys() == tensors(tmp_path / "plain", "bottle").keys()
    for key, value in tensors(tmp_path / "delayed", "bottle").items():
        assert value.equal(tensors(tmp_path / "plain", "bottle")[key])
    delayed, plain = tensors(tmp_path / "delayed", "cable"), tensors(tmp_path / "plain", "cable")
    lora = [key for key in delayed if ".updates." in key and key.endswith(".b")]
    assert lora
    for key in lora:
        # The first steps of AdamP have equal lengths: B makes the steps of one epoch instead of three.
        assert 0 < delayed[key].abs().max() < 0.6 * plain[key].abs().max()


def test_resumed_run_has_the_same_delay(root: Path, tmp_path: Path) -> None:
    overrides = command(root, "optimizer.lora_delay=2")
    reference = run_program(overrides, tmp_path / "reference")
    for epoch in (0, 1):
        resumed = stop_and_resume(overrides, tmp_path / f"resumed{epoch}", task=1, epoch=epoch)
        assert resumed["training"] == reference["training"]
        for name in ("bottle", "cable"):
            path = f"model/experts/{name}.safetensors"
            assert (tmp_path / f"resumed{epoch}" / path).read_bytes() == (tmp_path / "reference" / path).read_bytes()


@pytest.mark.parametrize(
    ("delay", "model", "message"),
    [
        ("3", "moleflow", "from 0 to 2"),
        ("-1", "moleflow", "from 0 to 2"),
        ("1.5", "moleflow", "from 0 to 2"),
        ("1", "whitened", "this model has no LoRA"),
    ],
)
def test_invalid_delay_is_an_error(delay: str, model: str, message: str, root: Path, tmp_path: Path) -> None:
    rank = ["model.lora_rank=0"] if model == "whitened" else []
    with pytest.raises(UserError, match=rf"optimizer\.lora_delay={delay} .*{message}"):
        run_program(command(root, f"model={model}", *rank, f"optimizer.lora_delay={delay}"), tmp_path)


def test_loss_that_is_not_finite_is_an_error_or_a_skipped_step(
    root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    diverging = command(root, "optimizer.lr=1e18", "optimizer.gradient_clip=null", "dataset.categories=[bottle]")
    with pytest.raises(UserError, match=r"task 1/1 bottle: the .* is (nan|inf) in epoch \d, .*on_nonfinite=skip"):
        run_program(diverging, tmp_path / "error")
    with caplog.at_level(logging.WARNING), pytest.raises(UserError, match="Its training diverged"):
        run_program([*diverging, "optimizer.on_nonfinite=skip"], tmp_path / "skip")
    assert "The step is skipped." in caplog.text
