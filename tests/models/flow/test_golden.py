"""Recorded losses of the first training steps of the default method."""

import pytest
import torch

from moleflow.models.flow.expert_flow import ExpertFlow
from moleflow.models.flow.loss import FlowLoss, patch_nll
from moleflow.utils.random import generator

GOLDEN = [17.45623, 17.12679, 16.87125, 19.42448, 19.15439, 18.97424]


def test_losses_of_the_default_method() -> None:
    flow, loss, losses = ExpertFlow(dim=16, lora_rank=4), FlowLoss(), []
    for i, name in enumerate(("a", "b")):
        flow.add_expert(name)
        x = torch.randn(2, 6, 6, 16, generator=generator(0, "golden", i)) * 2 + 1
        flow.fit(name, [x])
        optimizer = torch.optim.SGD(flow.trainable_parameters([name]), lr=0.01)
        for _ in range(3):
            z, logdet = flow(x, name)
            parts = loss(patch_nll(z, logdet), logdet)
            optimizer.zero_grad()
            parts.total.backward()
            optimizer.step()
            losses.append(float(parts.total.detach()))
    assert losses == pytest.approx(GOLDEN, rel=1e-5)
