"""Small flows and features of several categories, for tests of continual strategies without a run."""

from typing import Any

import torch
from torch import Tensor

from moleflow.models.flow.expert_flow import ExpertFlow
from moleflow.models.flow.loss import patch_nll
from moleflow.models.flow.shared_flow import SharedFlow
from moleflow.training.strategies.base import ContinualStrategy
from moleflow.utils.random import generator


def category_features(seed: int = 0, count: int = 4, dim: int = 8) -> Tensor:
    """Return patch features (count, 3, 4, dim) of one category: correlated channels around a mean, by the seed."""
    rng = generator(seed, "kind")
    mixing, mean = torch.randn(dim, dim, generator=rng) / dim**0.5, 2 * torch.randn(dim, generator=rng)
    return torch.randn(count, 3, 4, dim, generator=rng) @ mixing + mean


def small_flow(kind: type[ExpertFlow] = SharedFlow, **settings: Any) -> ExpertFlow:
    """Return a flow of 8 channels without experts."""
    defaults: dict[str, Any] = {"dim": 8, "coupling_layers": 2, "lora_rank": 0, "dia_blocks": 1}
    return kind(**(defaults | settings))


def mean_nll(flow: ExpertFlow, features: Tensor, name: str) -> Tensor:
    """Return the mean patch NLL of images under an expert."""
    z, logdet = flow(features, name)
    return patch_nll(z, logdet).mean()


def train_flow(flow: ExpertFlow, name: str, features: Tensor, strategy: ContinualStrategy, steps: int = 60) -> None:
    """Train one task in the order of the program, with plain steps instead of its trainer."""
    flow.add_expert(name)
    flow.requires_grad_(False)
    parameters = flow.trainable_parameters([name])
    for parameter in parameters:
        parameter.requires_grad_()
    optimizer = torch.optim.Adam(parameters, lr=5e-3)
    replayed = strategy.replay_samples(len(features))
    for _ in range(steps):
        for expert, part in {name: features, **replayed}.items():
            optimizer.zero_grad()
            loss = mean_nll(flow, part, expert)
            penalty = strategy.penalty(flow)
            (loss if penalty is None else loss + penalty).backward()
            optimizer.step()
    flow.requires_grad_(False)
    strategy.after_task(flow, {name: features})
