"""Tests of elastic weight consolidation against a direct computation."""

import pytest
import torch

from helpers.continual import category_features, mean_nll, small_flow
from helpers.tensors import perturb_parameters
from moleflow.training.strategies.base import shared_parameters
from moleflow.training.strategies.ewc import EWC, fisher_information
from moleflow.utils.errors import UserError


def test_fisher_information_is_the_mean_of_squared_gradients() -> None:
    flow = small_flow()
    flow.add_expert("a")
    perturb_parameters(flow, 0.1)
    x = category_features(1, 3)
    expected = {name: torch.zeros_like(parameter) for name, parameter in flow.named_parameters()}
    for image in x:
        flow.zero_grad()
        mean_nll(flow, image[None], "a").backward()
        for name, parameter in flow.named_parameters():
            assert parameter.grad is not None
            expected[name] += parameter.grad**2 / 3
    flow.add_expert("b")
    fisher = fisher_information(flow, {"a": x[:1], "b": x[1:]})
    assert fisher.keys() == expected.keys() == shared_parameters(flow).keys()
    for name, value in fisher.items():
        torch.testing.assert_close(value, expected[name])
        assert not flow.get_parameter(name).requires_grad


def test_penalty_equals_the_formula() -> None:
    """Two tasks: weight / 2 sum_i (decay F1_i + F2_i) (w_i - a_i)^2, with the weights a after the second task."""
    strategy, flow = EWC(weight=3.0, decay=0.5), small_flow()
    assert strategy.penalty(flow) is None
    flow.add_expert("a")
    strategy.after_task(flow, {"a": category_features(1)})
    first = {name: value.clone() for name, value in strategy.fisher.items()}
    with torch.no_grad():
        next(iter(flow.parameters())).add_(0.3)
    second = fisher_information(flow, {"a": category_features(2)})
    strategy.after_task(flow, {"a": category_features(2)})
    assert float(strategy.penalty(flow)) == 0  # type: ignore[arg-type]
    expected = 0.0
    with torch.no_grad():
        for i, (name, parameter) in enumerate(flow.named_parameters()):
            step = 0.01 * (i + 1)
            parameter += step
            expected += float(((0.5 * first[name] + second[name]) * step**2).sum())
    assert expected > 0
    assert float(strategy.penalty(flow)) == pytest.approx(1.5 * expected, rel=1e-4)  # type: ignore[arg-type]


def test_invalid_values_are_errors() -> None:
    with pytest.raises(UserError, match=r"continual\.weight=-1"):
        EWC(weight=-1)
    with pytest.raises(UserError, match=r"continual\.decay=2"):
        EWC(weight=1, decay=2)
