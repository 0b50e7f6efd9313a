"""Diagnostics of a detector: latents, gradients, LoRA updates, tail patches and routing margins."""

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor

from moleflow.detector.base import Detector
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
from moleflow.models.base import PatchModel
from moleflow.models.flow.coupling import CouplingBlock
from moleflow.models.flow.expert_flow import ExpertFlow
from moleflow.models.flow.lora import LoRAUpdate
from moleflow.models.flow.loss import FlowLoss, patch_nll

_BATCH = 8  # images per forward pass
NO_FLOW = "does not exist: this model has no latent space"
NO_LORA = "does not exist: this expert has no LoRA update"
NO_GRADIENT = "does not exist: this expert has no trainable parameters"
ONE_EXPERT = "does not exist: a margin needs at least two experts"


def expert_diagnostics(model: PatchModel, name: str, features: Tensor, loss: FlowLoss) -> dict[str, Any]:
    """Return the diagnostics of one expert; a reason in place of each quantity that does not exist for the model.

    Args:
        model: The patch model.
        name: Name of the expert.
        features: Patch features (N, h, w, D) of some of its training images.
        loss: The loss that it was trained with.
    """
    result: dict[str, Any] = {"images": len(features)}
    if isinstance(model, ExpertFlow):
        nll, latent = _latent(model, name, features)
        result |= latent | {"gradient": _gradient(model, name, features, loss), "lora": _lora(model, name)}
    else:
        with torch.no_grad():
            nll = torch.cat([model.patch_scores(x, name) for x in torch.split(features, _BATCH)])
        result |= dict.fromkeys(("log_determinant", "latent", "gradient", "lora"), NO_FLOW)
    count = max(1, int(nll[0].numel() * loss.tail_top_k_ratio))
    frequency = tail_frequency(nll, count)
    share, ring = border_share(frequency)
    tail = {"patches": count, "border_share": share, "border_patches": ring, "frequency": _rounded(frequency)}
    return result | {"tail": tail}


@torch.no_grad()
def _latent(flow: ExpertFlow, name: str, features: Tensor) -> tuple[Tensor, dict[str, Any]]:
    """Return the patch NLL (N, h, w), and statistics of log-determinants and latents."""
    parts = [flow(x, name) for x in torch.split(features, _BATCH)]
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


def _gradient(flow: ExpertFlow, name: str, features: Tensor, loss: FlowLoss) -> dict[str, Any] | str:
    """Return the shares of the loss terms in the gradient of the expert's parameters."""
    parameters = list(flow.expert(name).parameters())
    if not parameters:
        return NO_GRADIENT
    terms: dict[str, Tensor] = {}
    for parameter in parameters:
        parameter.requires_grad_()
    for x in torch.split(features, _BATCH):
        z, logdet = flow(x, name)
        parts = loss(patch_nll(z, logdet), logdet)
        tail = loss.tail_weight * parts.tail_nll
        mean = parts.total - parts.logdet_penalty - tail
        for term, value in (("mean", mean), ("tail", tail), ("penalty", parts.logdet_penalty)):
            gradient = _flatten(
                torch.autograd.grad(value, parameters, retain_graph=True, allow_unused=True), parameters
            )
            terms[term] = terms.get(term, 0.0) + gradient * (len(x) / len(features))
    for parameter in parameters:
        parameter.requires_grad_(False)
    return {"shares": norm_shares(terms), "cosine_mean_tail": cosine(terms["mean"], terms["tail"])}


def _flatten(gradients: tuple[Tensor | None, ...], parameters: list[torch.nn.Parameter]) -> Tensor:
    pairs = zip(gradients, parameters, strict=True)
    return torch.cat([(torch.zeros_like(p) if g is None else g).flatten() for g, p in pairs])


def _lora(flow: ExpertFlow, name: str) -> dict[str, Any] | str:
    """Return the singular values of each LoRA update, and the norm of the update relative to its layer."""
    layers: dict[str, list[float]] = {}
    ranks, sizes = [], []
    for i, updates in enumerate(flow.expert(name).updates):
        shared = cast(CouplingBlock, flow.stack.blocks[i]).subnet.linears()
        for layer, update in cast(Mapping[str, LoRAUpdate], updates).items():
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


def routing_margins(detector: Detector, image_features: Mapping[str, Tensor]) -> dict[str, Any] | str:
    """Return statistics of the routing margins of each category's test images under the current experts.

    Args:
        detector: The detector.
        image_features: Image features (N, D) of the test images by category.
    """
    router = detector.router
    if len(router.names) < 2:
        return ONE_EXPERT
    result = {}
    for category, features in image_features.items():
        own = {router.names.index(name) for name in detector.experts_of(category)}
        distances = router.route(features).distances
        others = distances[:, [i for i in range(len(router.names)) if i not in own]]
        margins = route_margins(torch.cat([distances[:, sorted(own)].amin(1, keepdim=True), others], 1), 0)
        low, median = margins.quantile(torch.tensor([0.05, 0.5]).to(margins)).tolist()
        result[category] = {"minimum": float(margins.min()), "low": low, "median": median}
    return result


def scalars(content: Mapping[str, Any]) -> dict[str, float]:
    """Return the scalar diagnostics of a task by short names: means over its experts, and the smallest margin."""
    paths = {
        "logdet_sd": ("log_determinant", "sd"),
        "logdet_correlation": ("log_determinant", "correlation_with_square"),
        "qq_correlation": ("latent", "qq_correlation"),
        "excess_kurtosis": ("latent", "excess_kurtosis"),
        "tail_gradient_share": ("gradient", "shares", "tail"),
        "tail_border_share": ("tail", "border_share"),
        "lora_effective_rank": ("lora", "effective_rank"),
        "lora_relative_norm": ("lora", "relative_norm"),
    }
    result = {}
    for short, keys in paths.items():
        values = [v for expert in content["experts"].values() if (v := _number(expert, keys)) is not None]
        if values:
            result[short] = sum(values) / len(values)
    if isinstance(content["router"], Mapping):
        result["router_minimum_margin"] = min(entry["minimum"] for entry in content["router"].values())
    return result


def _number(content: Any, keys: tuple[str, ...]) -> float | None:
    for key in keys:
        content = content.get(key) if isinstance(content, Mapping) else None
    return None if content is None else float(content)


def _rounded(frequency: Tensor) -> list[list[float]]:
    return [[round(value, 4) for value in row] for row in frequency.tolist()]
