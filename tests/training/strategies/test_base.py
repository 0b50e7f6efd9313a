"""Tests of continual strategies on a sequence of tasks, and of the checks before it."""

from typing import Any

import pytest
import torch

from helpers.continual import category_features, mean_nll, small_flow, train_flow
from moleflow.models.flow.expert_flow import ExpertFlow
from moleflow.models.flow.shared_flow import SharedFlow
from moleflow.training.strategies.base import ContinualStrategy, shared_parameters
from moleflow.training.strategies.ewc import EWC
from moleflow.training.strategies.replay import Replay
from moleflow.utils.errors import UserError


def forgetting(kind: type[ExpertFlow], strategy: ContinualStrategy, **settings: Any) -> float:
    """Return the increase of the NLL of a first task's validation images by two later tasks, in nats per patch."""
    flow = small_flow(kind, **settings)
    strategy.check(flow)
    images = category_features(1, 12)
    train_flow(flow, "a", images[:8], strategy)
    before = float(mean_nll(flow, images[8:], "a"))
    train_flow(flow, "b", category_features(2, 8), strategy)
    train_flow(flow, "c", category_features(3, 8), strategy)
    return float(mean_nll(flow, images[8:], "a")) - before


def test_strategies_forget_less_than_fine_tuning_and_experts_nothing() -> None:
    fine_tuning = forgetting(SharedFlow, ContinualStrategy())
    assert fine_tuning > 10
    assert forgetting(ExpertFlow, ContinualStrategy(), lora_rank=2) == 0
    assert forgetting(SharedFlow, EWC(weight=100.0)) < fine_tuning / 2
    assert forgetting(SharedFlow, Replay(images=6)) < fine_tuning / 2


@pytest.mark.parametrize("strategy", [EWC(weight=1.0), Replay(images=5)])
def test_state_round_trip(strategy: ContinualStrategy) -> None:
    flow = small_flow()
    flow.add_expert("a")
    flow.add_expert("b")
    for i, name in enumerate(("b", "a")):  # not in alphabetical order
        strategy.after_task(flow, {name: category_features(i)})
    other = EWC(weight=1.0) if isinstance(strategy, EWC) else Replay(images=5)
    other.load(strategy.state())
    strategy.after_task(flow, {"b": category_features(7)})
    other.after_task(flow, {"b": category_features(7)})
    state, other_state = strategy.state(), other.state()
    assert list(state) == list(other_state)
    assert all(torch.equal(state[key], other_state[key]) for key in state)


def test_strategy_without_effect_is_an_error() -> None:
    for strategy in (EWC(weight=1.0), Replay(images=1)):
        with pytest.raises(UserError, match=f"continual={type(strategy).__name__}: .*continual=experts"):
            strategy.check(small_flow(ExpertFlow))
        strategy.check(small_flow(ExpertFlow, base="trainable"))
    ContinualStrategy().check(small_flow(ExpertFlow))
    with pytest.raises(UserError, match=r"model\.base=trainable must be frozen"):
        small_flow(SharedFlow, base="trainable")


def test_base_strategy_has_no_state_and_no_penalty() -> None:
    strategy, flow = ContinualStrategy(), small_flow()
    flow.add_expert("a")
    strategy.after_task(flow, {"a": category_features()})
    strategy.load(strategy.state())
    assert strategy.state() == strategy.replay_samples(3) == {}
    assert strategy.penalty(flow) is None


def test_shared_parameters_exclude_those_of_experts() -> None:
    flow = small_flow(ExpertFlow, lora_rank=2)
    flow.add_expert("a")
    names = shared_parameters(flow).keys()
    assert names
    assert not any(name.startswith("experts.") for name in names)
