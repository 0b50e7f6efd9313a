"""Looks into each task's experts when the task is done, and keeps what it finds in the run folder."""

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from moleflow.files import write_json
from moleflow.flow import CouplingBlock, ExpertFlow, PatchModel
from moleflow.flow.lora import LowRankUpdate
from moleflow.losses import FlowLoss, patch_nll
from moleflow.metrics.diagnostics import (
    QQ_LEVELS,
    border_share,
    correlation,
    cosine,
    effective_rank,
    excess_kurtosis,
    norm_shares,
    normal_qq,
    product_singular_values,
    route_margins,
    tail_frequency,
)
from moleflow.training.callbacks import RunCallback

if TYPE_CHECKING:
    from moleflow.training.sequence import TaskReport, TaskSequence

log = logging.getLogger(__name__)

_PART = 8  # pictures a pass
NO_FLOW = "no such quantity: this model has no latent space"
NO_LORA = "no such quantity: this expert has no low-rank update"
NO_GRADIENT = "no such quantity: this expert learns nothing by gradient"
ONE_EXPERT = "no such quantity: one expert alone has no margin"


class Diagnostics(RunCallback):
    """Writes ``diagnostics/task<i>.json`` after each task; docs/diagnostics.md says what is in it.

    A task's file depends on nothing but the model after that task, so a run that was stopped has the same ones.

    Args:
        pictures: Training pictures of an expert that are looked at: the first ones.
    """

    def __init__(self, pictures: int = 32) -> None:
        self.pictures = pictures

    def on_task_evaluated(self, run: "TaskSequence", report: "TaskReport") -> None:
        """Examine the task's experts and all routes."""
        experts: dict[str, dict[str, Any]] = {}
        for name, note in run.model.notes.items():
            if set(note["categories"]) <= set(report.task.categories):
                samples = [s for c in note["categories"] for s in run.learned_and_held_out(c)[0]]
                step = -(-len(samples) // self.pictures)  # spread over the expert's categories
                grids = run.model.extractor_of(name).features([s.path for s in samples[::step]]).to(run.model.device)
                experts[name] = examine(run.model.flow, name, grids, run.settings.loss_of(note["categories"]))
        content = {"task": report.task.name, "experts": experts, "router": routes(run, list(report.routed))}
        write_json(run.folder / "diagnostics" / f"task{report.task.index}.json", content)
        for logger in run.loggers:
            logger.log_metrics({f"diagnostics/{k}": v for k, v in scalars(content).items()}, step=report.step)


def examine(flow: PatchModel, name: str, grids: Tensor, loss: FlowLoss) -> dict[str, Any]:
    """Return what there is to say of one expert; a text in place of a quantity that the model does not have.

    Args:
        flow: The model.
        name: The expert.
        grids: Training pictures of it (N, h, w, D).
        loss: The loss it was trained with.
    """
    found: dict[str, Any] = {"pictures": len(grids)}
    if isinstance(flow, ExpertFlow):
        nll, latent = _latent(flow, name, grids)
        found |= latent | {"gradient": _gradient(flow, name, grids, loss), "lora": _lora(flow, name)}
    else:
        with torch.no_grad():
            nll = torch.cat([flow.patch_scores(x, name) for x in torch.split(grids, _PART)])
        found |= dict.fromkeys(("log_determinant", "latent", "gradient", "lora"), NO_FLOW)
    count = max(1, int(nll[0].numel() * loss.tail_top_k_ratio))
    frequency = tail_frequency(nll, count)
    share, ring = border_share(frequency)
    tail = {"patches": count, "border_share": share, "border_patches": ring, "frequency": _rounded(frequency)}
    return found | {"tail": tail}


@torch.no_grad()
def _latent(flow: ExpertFlow, name: str, grids: Tensor) -> tuple[Tensor, dict[str, Any]]:
    """Return the patches' NLL (N, h, w), and how log-determinants and latents are distributed."""
    parts = [flow(x, name) for x in torch.split(grids, _PART)]
    z, logdet = (torch.cat(values) for values in zip(*parts, strict=True))
    quantiles = normal_qq(z)
    determinant = {
        "mean": float(logdet.double().mean()),
        "sd": float(logdet.double().std(correction=0)),
        "correlation_with_square": correlation(logdet, z.square().sum(-1)),
    }
    latent = {
        "levels": list(QQ_LEVELS),
        "quantiles": quantiles,
        "qq_correlation": correlation(torch.tensor(QQ_LEVELS), torch.tensor(quantiles)),
        "excess_kurtosis": excess_kurtosis(z),
    }
    return patch_nll(z, logdet), {"log_determinant": determinant, "latent": latent}


def _gradient(flow: ExpertFlow, name: str, grids: Tensor, loss: FlowLoss) -> dict[str, Any] | str:
    """Return how the gradient of the expert's own parameters splits into the terms of the loss."""
    own = list(flow.expert(name).parameters())
    if not own:
        return NO_GRADIENT
    terms: dict[str, Tensor] = {}
    for parameter in own:
        parameter.requires_grad_()
    for x in torch.split(grids, _PART):
        z, logdet = flow(x, name)
        parts = loss(patch_nll(z, logdet), logdet)
        tail = loss.tail_weight * parts.tail_nll
        mean = parts.total - parts.logdet_penalty - tail
        for term, value in (("mean", mean), ("tail", tail), ("penalty", parts.logdet_penalty)):
            gradient = _flat(torch.autograd.grad(value, own, retain_graph=True, allow_unused=True), own)
            terms[term] = terms.get(term, 0.0) + gradient * (len(x) / len(grids))
    for parameter in own:
        parameter.requires_grad_(False)
    return {"shares": norm_shares(terms), "cosine_mean_tail": cosine(terms["mean"], terms["tail"])}


def _flat(gradients: tuple[Tensor | None, ...], like: list[torch.nn.Parameter]) -> Tensor:
    pairs = zip(gradients, like, strict=True)
    return torch.cat([(torch.zeros_like(p) if g is None else g).flatten() for g, p in pairs])


def _lora(flow: ExpertFlow, name: str) -> dict[str, Any] | str:
    """Return the singular values of each low-rank update, and how large the update is beside the layer."""
    layers: dict[str, list[float]] = {}
    ranks, sizes = [], []
    for i, updates in enumerate(flow.expert(name).updates):
        shared = cast(CouplingBlock, flow.stack.blocks[i]).subnet.linears()
        for layer, update in cast(Mapping[str, LowRankUpdate], updates).items():
            if update.a is None or update.b is None:
                continue
            values = product_singular_values(update.b.detach(), update.a.detach()) * update.scale
            layers[f"block{i}.{layer}"] = [float(f"{value:.4g}") for value in values.tolist()]
            ranks.append(effective_rank(values))
            sizes.append(float(values.norm() / shared[layer].weight.detach().double().norm()))
    if not layers:
        return NO_LORA
    known = [rank for rank in ranks if rank is not None]
    return {
        "effective_rank": sum(known) / len(known) if known else None,
        "relative_norm": sum(sizes) / len(sizes),
        "singular_values": layers,
    }


def routes(run: "TaskSequence", categories: list[str]) -> dict[str, Any] | str:
    """Return by category how clearly its test pictures are routed by the experts that there are now."""
    router = run.model.router
    if len(router.names) < 2:
        return ONE_EXPERT
    found = {}
    for category in categories:
        own = router.names.index(run.model.expert_of(category))
        margins = route_margins(router.distances(run.evaluator.image_features(category)), own)
        low, middle = margins.quantile(torch.tensor([0.05, 0.5]).to(margins)).tolist()
        found[category] = {"minimum": float(margins.min()), "low": low, "median": middle}
    return found


def scalars(content: Mapping[str, Any]) -> dict[str, float]:
    """Return the single numbers of a task's file by a short name, as means over its experts; the least margin."""
    places = {
        "logdet_sd": ("log_determinant", "sd"),
        "logdet_correlation": ("log_determinant", "correlation_with_square"),
        "qq_correlation": ("latent", "qq_correlation"),
        "excess_kurtosis": ("latent", "excess_kurtosis"),
        "tail_gradient_share": ("gradient", "shares", "tail"),
        "tail_border_share": ("tail", "border_share"),
        "lora_effective_rank": ("lora", "effective_rank"),
        "lora_relative_norm": ("lora", "relative_norm"),
    }
    found = {}
    for short, keys in places.items():
        values = [v for expert in content["experts"].values() if (v := _number(expert, keys)) is not None]
        if values:
            found[short] = sum(values) / len(values)
    if isinstance(content["router"], Mapping):
        found["router_minimum_margin"] = min(entry["minimum"] for entry in content["router"].values())
    return found


def _number(content: Any, keys: tuple[str, ...]) -> float | None:
    for key in keys:
        content = content.get(key) if isinstance(content, Mapping) else None
    return None if content is None else float(content)


def _rounded(frequency: Tensor) -> list[list[float]]:
    return [[round(value, 4) for value in row] for row in frequency.tolist()]
