"""What a run with callbacks=diagnostics leaves behind: the right numbers, for every kind of model, over a kill too."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from helpers.program import TINY, run_program
from helpers.stopping import stopped_and_continued
from helpers.trees import write_mvtec_tree
from moleflow import MoLEFlow
from moleflow.evaluation.diagnostics import NO_FLOW, NO_GRADIENT, NO_LORA, ONE_EXPERT, expert_diagnostics
from moleflow.models.flow.expert_flow import ExpertFlow
from moleflow.models.flow.loss import FlowLoss, patch_nll


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_mvtec_tree(tmp_path_factory.mktemp("mvtec"), ["bottle", "cable"], train=4, good=2, defect=2)


def overrides(root: Path, *more: str) -> list[str]:
    return ["dataset=folder", f"dataset.root={root}", *TINY, "callbacks=diagnostics", "~callbacks.pictures", *more]


def tasks(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted((folder / "diagnostics").iterdir())]


@pytest.fixture(scope="module")
def finished(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    run_program(overrides(root), folder)
    return folder


def test_a_run_leaves_one_file_a_task(finished: Path, root: Path) -> None:
    first, second = tasks(finished)
    assert list(first["experts"]) == ["bottle"]
    assert first["router"] == ONE_EXPERT
    assert list(second["experts"]) == ["cable"]
    # The margins are those of the model that was saved.
    model = MoLEFlow.load(finished)
    paths = sorted((root / "bottle" / "test").rglob("*.png"))
    distances = model.router.distances(model.image_features(model.extractor.features(paths)))
    margins = distances[:, 1] - distances[:, 0]
    assert second["router"]["bottle"]["minimum"] == pytest.approx(float(margins.min()))
    assert second["router"]["bottle"]["median"] == pytest.approx(float(margins.quantile(0.5)))
    # And the expert is the one that was saved.
    grids = model.extractor.features(sorted((root / "cable" / "train" / "good").iterdir()))
    again = json.loads(json.dumps(expert_diagnostics(model.flow, "cable", grids, FlowLoss())))
    shares, same = (entry.pop("gradient")["shares"] for entry in (again, second["experts"]["cable"]))
    assert same == pytest.approx(shares, rel=1e-6)  # sums of gradients round by where they lie in memory
    assert second["experts"]["cable"] == again


def test_a_killed_run_has_the_same_files(finished: Path, root: Path, tmp_path: Path) -> None:
    stopped_and_continued(overrides(root), tmp_path, task=1, epoch=0)
    assert tasks(tmp_path) == tasks(finished)


@pytest.mark.parametrize(
    ("model", "missing"),
    [
        ("gaussian", {"gradient": NO_GRADIENT, "lora": NO_LORA}),
        ("whitened", {"lora": NO_LORA}),
        ("padim", {"latent": NO_FLOW, "log_determinant": NO_FLOW, "gradient": NO_FLOW, "lora": NO_FLOW}),
    ],
)
def test_what_a_model_lacks_is_said(model: str, missing: dict[str, str], root: Path, tmp_path: Path) -> None:
    less = ["model.channels=8"] if model == "padim" else []
    tiny = [o for o in overrides(root) if not o.startswith("model.")]
    run_program([*tiny, f"model={model}", *less, "dataset.categories=[bottle]", "epochs=1"], tmp_path)
    (only,) = tasks(tmp_path)
    entry = only["experts"]["bottle"]
    assert {key: value for key, value in entry.items() if isinstance(value, str)} == missing
    assert entry["tail"]["patches"] == 1
    if model == "gaussian":
        assert entry["log_determinant"] == {"mean": 0.0, "sd": 0.0, "correlation_with_square": None}


# -- one expert -------------------------------------------------------------------------------------------------------


def trained_like(**settings: Any) -> tuple[ExpertFlow, Tensor]:
    flow = ExpertFlow(8, coupling_layers=2, dia_blocks=1, lora_rank=3, **settings)
    flow.add_expert("a")
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in flow.expert("a").parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=draw))
    return flow.requires_grad_(False), torch.randn(11, 5, 6, 8, generator=draw)


def test_gradient_shares_are_those_of_one_pass_over_all() -> None:
    flow, grids = trained_like()
    loss = FlowLoss(tail_weight=0.6, tail_top_k_ratio=0.1, lambda_logdet=1e-2)
    found = expert_diagnostics(flow, "a", grids, loss)
    assert not any(p.requires_grad for p in flow.parameters())
    own = list(flow.expert("a").requires_grad_().parameters())
    z, logdet = flow(grids, "a")
    nll = patch_nll(z, logdet)
    worst = nll.flatten(1).sort(dim=1, descending=True).values[:, :3].mean()
    norms = {}
    for name, value in (("mean", 0.4 * nll.mean()), ("tail", 0.6 * worst), ("penalty", 1e-2 * logdet.square().mean())):
        gradients = torch.autograd.grad(value, own, retain_graph=True, allow_unused=True)
        norms[name] = sum(float(g.square().sum()) for g in gradients if g is not None) ** 0.5
    expected = {name: norm / sum(norms.values()) for name, norm in norms.items()}
    assert found["gradient"]["shares"] == pytest.approx(expected, rel=1e-4)
    assert found["tail"]["patches"] == 3


def test_lora_is_what_the_layers_get() -> None:
    flow, grids = trained_like()
    found = expert_diagnostics(flow, "a", grids, FlowLoss())["lora"]
    merged = flow.merged("a")
    sizes = []
    for place, values in found["singular_values"].items():
        block, layer = place.removeprefix("block").split(".")
        name = f"stack.blocks.{block}.subnet.{layer}.weight"
        change = merged.state_dict()[name] - flow.state_dict()[name]
        exact = torch.linalg.svdvals(change.double())[:3]
        assert values == pytest.approx(exact.tolist(), rel=1e-3, abs=1e-5)
        sizes.append(float(change.norm() / flow.state_dict()[name].norm()))
    assert len(sizes) == 2 * 4
    assert found["relative_norm"] == pytest.approx(sum(sizes) / len(sizes), rel=1e-4)


def test_base_policies_without_updates_have_no_lora() -> None:
    flow = ExpertFlow(8, coupling_layers=1, base="separate", lora_rank=2)
    for name in ("a", "b"):
        flow.add_expert(name)
    grids = torch.randn(3, 4, 4, 8, generator=torch.Generator().manual_seed(0))
    assert expert_diagnostics(flow, "b", grids, FlowLoss())["lora"] == NO_LORA
