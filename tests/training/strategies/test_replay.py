"""Tests of experience replay: the budget of stored images, and the images of a task."""

import itertools

import pytest
import torch
from torch import Tensor

from helpers.continual import category_features, small_flow
from moleflow.training.strategies.replay import Replay, split_evenly
from moleflow.utils.errors import UserError


def test_budget_is_kept_and_removed_images_never_return() -> None:
    def states_of_four_tasks() -> list[dict[str, Tensor]]:
        strategy, flow, states = Replay(images=7), small_flow(), []
        for i, name in enumerate("abcd"):
            strategy.after_task(flow, {name: category_features(i, 10)})
            states.append(strategy.state())
        return states

    states, repeated = states_of_four_tasks(), states_of_four_tasks()
    sizes = [[len(features) for features in state.values()] for state in states]
    assert sizes == [[7], [4, 3], [3, 2, 2], [2, 2, 2, 1]]
    for former, state in itertools.pairwise(states):
        assert all(torch.equal(state[key], former[key][: len(state[key])]) for key in former)
    for state, other in zip(states, repeated, strict=True):
        assert all(torch.equal(state[key], other[key]) for key in state)
    images = category_features(0, 10)
    assert all(any(torch.equal(stored, image) for image in images) for stored in states[-1]["00000.a"])


def test_half_of_the_images_are_replayed_and_every_stored_one_at_least_once() -> None:
    strategy, flow = Replay(images=4), small_flow()
    assert strategy.replay_samples(10) == {}
    for i, name in enumerate("ab"):
        strategy.after_task(flow, {name: category_features(i, 10)})
    replayed = strategy.replay_samples(9)
    assert {name: len(x) for name, x in replayed.items()} == {"a": 5, "b": 4}
    assert torch.equal(replayed["a"][:2], replayed["a"][2:4])
    assert {name: len(x) for name, x in strategy.replay_samples(2).items()} == {"a": 2, "b": 2}


def test_even_split() -> None:
    assert split_evenly(7, 3) == [3, 2, 2]
    assert split_evenly(2, 3) == [1, 1, 0]
    assert split_evenly(2, 0) == []


def test_invalid_budget_is_an_error() -> None:
    with pytest.raises(UserError, match=r"continual\.images=0"):
        Replay(images=0)
