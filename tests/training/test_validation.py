"""Images held out: which, that nothing is learned from them, what is measured, and when a warning comes."""

import csv
import json
import logging
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from helpers.program import TINY, run_program
from helpers.stopping import stopped_and_continued
from helpers.trees import write_mvtec_tree
from moleflow import MoLEFlow
from moleflow.data.samples import Sample
from moleflow.data.splits import train_validation_split
from moleflow.models.flow.expert_flow import ExpertFlow
from moleflow.models.flow.jacobian import convolution_log_determinant, omitted_log_determinant
from moleflow.models.flow.loss import patch_nll
from moleflow.runs.overfitting import first_overfitting
from moleflow.training.validation import validation_nll
from moleflow.utils.errors import UserError


def samples(count: int, category: str = "bottle") -> list[Sample]:
    return [Sample(Path(f"{category}/{i:03}.png"), category, "train", "good", None) for i in range(count)]


@given(count=st.integers(2, 60), amount=st.sampled_from([0.01, 0.2, 0.5, 1, 3]), seed=st.integers(0, 5))
def test_held_out_and_learned_are_all_and_share_none(count: int, amount: float, seed: int) -> None:
    given_samples = samples(count)
    wanted = max(1, round(amount * count)) if amount < 1 else int(amount)
    if wanted >= count:
        with pytest.raises(UserError, match="nothing to learn from"):
            train_validation_split(given_samples, amount, seed)
        return
    learned, held = train_validation_split(given_samples, amount, seed)
    assert len(held) == wanted
    assert sorted([*learned, *held], key=lambda s: s.path) == given_samples
    assert learned == [s for s in given_samples if s not in held]
    assert (learned, held) == train_validation_split(given_samples, amount, seed)


def test_the_draw_has_a_name() -> None:
    chosen = {
        (seed, c): [s.path.name for s in train_validation_split(samples(40, c), 8, seed)[1]]
        for seed in (0, 1)
        for c in "ab"
    }
    assert len({tuple(names) for names in chosen.values()}) == 4
    assert train_validation_split(samples(40), 0, 0) == (samples(40), [])


@pytest.mark.parametrize("amount", [-0.1, 2.5, 40, "many"])
def test_an_amount_that_cannot_be_is_refused(amount: Any) -> None:
    with pytest.raises(UserError, match="validation="):
        train_validation_split(samples(40), amount, 0)


# -- what is measured -------------------------------------------------------------------------------------------------


def wrapped(kernel: np.ndarray[Any, Any], height: int, width: int, wraps: bool) -> np.ndarray[Any, Any]:
    """Return a convolution as a matrix over the patches of a grid."""
    reach = len(kernel) // 2
    matrix = np.zeros((height * width, height * width))
    for y in range(height):
        for x in range(width):
            for dy in range(-reach, reach + 1):
                for dx in range(-reach, reach + 1):
                    v, u = y + dy, x + dx
                    if wraps or (0 <= v < height and 0 <= u < width):
                        matrix[y * width + x, v % height * width + u % width] += kernel[dy + reach, dx + reach]
    return matrix


@given(seed=st.integers(0, 1000), size=st.sampled_from([3, 5]), grid=st.sampled_from([(5, 5), (6, 8), (7, 5)]))
def test_log_determinant_of_a_convolution_that_wraps_around(seed: int, size: int, grid: tuple[int, int]) -> None:
    kernels = np.random.default_rng(seed).normal(size=(2, size, size))
    found = convolution_log_determinant(torch.from_numpy(kernels), grid)
    for kernel, value in zip(kernels, found, strict=True):
        exact = np.linalg.slogdet(wrapped(kernel, *grid, wraps=True))[1] / (grid[0] * grid[1])
        assert float(value) == pytest.approx(exact, abs=1e-8)


def test_log_determinant_of_the_mixers_zero_padding_is_near() -> None:
    flow = ExpertFlow(8, coupling_layers=0, dia_blocks=0, lora_rank=0, adapter="none")
    flow.add_expert("a")
    assert flow.mixer is not None
    with torch.no_grad():
        flow.mixer.weight.mul_(0.3)  # type: ignore[union-attr, operator]
    kernels = flow.mixer.kernels()  # type: ignore[union-attr, operator]
    exact = np.linalg.slogdet(wrapped(kernels[0].detach().double().numpy(), 20, 20, wraps=False))[1] / 400
    found = omitted_log_determinant(flow, "a", (20, 20))
    assert found == pytest.approx(8 * exact, rel=0.02)
    # The matrix is what the mixer does.
    x = torch.randn(1, 20, 20, 8, generator=torch.Generator().manual_seed(0))
    by_matrix = wrapped(kernels[3].detach().double().numpy(), 20, 20, wraps=False) @ x[0, ..., 3].flatten().numpy()
    assert torch.allclose(flow.mixer(x)[0, ..., 3].flatten(), torch.from_numpy(by_matrix).float(), atol=1e-5)


def test_what_the_adapter_may_contract_is_counted() -> None:
    flow = ExpertFlow(8, coupling_layers=1, lora_rank=2, spatial_context_mode="blur")
    flow.add_expert("a")
    adapter = flow.expert("a").adapter
    with torch.no_grad():
        adapter.raw_scale.fill_(-50.0)  # type: ignore[operator, union-attr]
    assert omitted_log_determinant(flow, "a", (4, 4)) == pytest.approx(8 * np.log(0.5))
    x = torch.randn(11, 4, 4, 8, generator=torch.Generator().manual_seed(0))
    found = validation_nll(flow, {"a": x})
    assert found["held_out_nll"] == pytest.approx(patch_nll(*flow(x, "a")).mean().item(), rel=1e-6)
    assert found["held_out_nll_counted"] == pytest.approx(found["held_out_nll"] - 8 * np.log(0.5), rel=1e-6)
    assert validation_nll(flow, {}) == {}


@pytest.mark.parametrize("change", [{"spatial_context_mode": "full"}, {"adapter": "soft_norm"}])
def test_what_cannot_be_counted_is_not(change: dict[str, Any]) -> None:
    flow = ExpertFlow(8, coupling_layers=1, lora_rank=2, **change)
    flow.add_expert("a")
    assert omitted_log_determinant(flow, "a", (4, 4)) is None
    assert set(validation_nll(flow, {"a": torch.zeros(1, 4, 4, 8)})) == {"held_out_nll"}


# -- the rule ---------------------------------------------------------------------------------------------------------


def epochs(train: list[float], held: list[float], counted: list[float] | None = None) -> list[dict[str, float]]:
    pairs = enumerate(zip(train, held, strict=True))
    entries = [{"epoch": float(i), "nll_mean": t, "held_out_nll": h} for i, (t, h) in pairs]
    return [e | ({} if counted is None else {"held_out_nll_counted": counted[i]}) for i, e in enumerate(entries)]


def test_training_and_held_out_part() -> None:
    found = first_overfitting(epochs([100, 50, 20, 10, 0], [100, 60, 62, 70, 90]))
    assert found is not None
    assert (found.best, found.epoch, found.train, found.held_out) == (1, 3, (50, 10), (60, 70))
    assert "from epoch 1 to 3 the training NLL went from 50.0 to 10.0" in str(found)
    # A mixer that contracts: all likelihoods fall, only the counted one tells.
    falling = [200.0, 0, -200, -400]
    assert first_overfitting(epochs(falling, falling)) is None
    assert first_overfitting(epochs(falling, falling, [200, 60, 90, 150])) is not None


@pytest.mark.parametrize(
    ("train", "held"),
    [
        ([100, 50, 20, 10], [100, 60, 40, 35]),  # both fall
        ([100, 50, 20, 10], [100, 60, 61, 62]),  # rises by less than a tenth of what was won
        ([100, 50, 20], [100, 60, 90]),  # one epoch after the best is chance
        ([100, 50, 60, 70], [100, 60, 80, 90]),  # training rises too: another fault, seen in the loss
    ],
)
def test_training_and_held_out_do_not_part(train: list[float], held: list[float]) -> None:
    assert first_overfitting(epochs(train, held)) is None
    assert first_overfitting([{"epoch": float(i), "nll_mean": t} for i, t in enumerate(train)]) is None


@given(st.lists(st.tuples(st.floats(-1e3, 1e3), st.floats(-1e3, 1e3)), min_size=1, max_size=12))
def test_the_first_parting_stays_the_first(values: list[tuple[float, float]]) -> None:
    history = epochs([t for t, _ in values], [h for _, h in values])
    found = first_overfitting(history)
    firsts = [first_overfitting(history[: i + 1]) for i in range(len(history))]
    assert firsts[-1] == found
    if found is not None:
        assert all(f is None for f in firsts[: found.epoch])
        assert all(f == found for f in firsts[found.epoch :])


# -- in a run ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_mvtec_tree(tmp_path_factory.mktemp("mvtec"), ["bottle", "cable"], train=5, good=1, defect=1)


def overrides(root: Path, *more: str) -> list[str]:
    return ["dataset=folder", f"dataset.root={root}", *TINY, *more]


@pytest.fixture(scope="module")
def finished(root: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("run")
    return folder, run_program(overrides(root, "validation=0.4"), folder)


def test_a_run_learns_nothing_from_what_is_held_out(
    finished: tuple[Path, dict[str, Any]], root: Path, tmp_path: Path
) -> None:
    folder, metrics = finished
    assert [v["train_pictures"] for v in metrics["per_category"].values()] == [3, 3]
    model = MoLEFlow.load(folder)
    assert [model.router.statistics(name).count for name in ("bottle", "cable")] == [3, 3]
    assert [len(model.seen[name].scores) for name in ("bottle", "cable")] == [3, 3]
    # The same run on a tree that never had the images learns the same model.
    smaller = write_mvtec_tree(tmp_path / "tree", ["bottle", "cable"], train=5, good=1, defect=1)
    for category in ("bottle", "cable"):
        paths = sorted((smaller / category / "train" / "good").iterdir())
        held = train_validation_split([Sample(p, category, "train", "good", None) for p in paths], 0.4, 0)[1]
        for sample in held:
            sample.path.unlink()
    run_program(overrides(smaller), tmp_path / "run")
    for name in ("base", "experts/bottle", "experts/cable"):
        path = f"model/{name}.safetensors"
        assert (folder / path).read_bytes() == (tmp_path / "run" / path).read_bytes()


def test_what_is_measured_is_on_record(finished: tuple[Path, dict[str, Any]]) -> None:
    folder, metrics = finished
    with next((folder / "logs").rglob("metrics.csv")).open() as file:
        rows = [row for row in csv.DictReader(file) if row["val/nll"]]
    history = [epoch for task in metrics["training"]["epochs"] for epoch in task]
    assert len(rows) == len(history) == 4
    for row, epoch in zip(rows, history, strict=True):
        assert float(row["val/nll"]) == pytest.approx(epoch["held_out_nll"], rel=1e-5)
        assert float(row["val/nll_counted"]) == pytest.approx(epoch["held_out_nll_counted"], rel=1e-5)


def test_a_killed_run_goes_on_with_the_same_images_and_warns_once(
    root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = overrides(root, "validation=2", "epochs=4", "dataset.categories=[bottle]", "optimizer.lr=1e-3")
    plain = run_program(settings, tmp_path / "plain")
    continued = stopped_and_continued(settings, tmp_path / "continued", task=0, epoch=1)
    assert json.dumps(continued["training"]) == json.dumps(plain["training"])
    for epoch in (None, 0, 2):
        caplog.clear()
        rising = count()
        monkeypatch.setattr(lightning_module, "held_out_nll", lambda *_, r=rising: {"held_out_nll": float(next(r))})
        with caplog.at_level(logging.WARNING):
            if epoch is None:
                run_program(settings, tmp_path / "whole")
            else:
                stopped_and_continued(settings, tmp_path / f"killed{epoch}", task=0, epoch=epoch)
        said = [r.getMessage() for r in caplog.records if "held-out" in r.getMessage()]
        assert len(said) == 1
        assert said[0].startswith("task 1/1 bottle: from epoch 0 to 2 the training NLL went from ")
        assert "of held-out normal images from 0.0 to 2.0" in said[0]
        assert "epochs=1" in said[0]
