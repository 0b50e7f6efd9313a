"""Fine-tuning, elastic weights and replay: against literal versions, and what they do to a stream."""

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from moleflow.models.flow.expert_flow import ExpertFlow
from moleflow.models.flow.loss import patch_nll
from moleflow.models.flow.shared_flow import SharedFlow
from moleflow.training.strategies.base import ContinualStrategy, shared_parameters
from moleflow.training.strategies.ewc import EWC, fisher_information
from moleflow.training.strategies.replay import Replay, split_evenly
from moleflow.utils.errors import UserError
from moleflow.utils.random import generator


def grids(seed: int = 0, count: int = 4, dim: int = 8) -> Tensor:
    """Images of one kind: correlated channels around a mean, both drawn by the seed."""
    rng = generator(seed, "kind")
    mix, mean = torch.randn(dim, dim, generator=rng) / dim**0.5, 2 * torch.randn(dim, generator=rng)
    return torch.randn(count, 3, 4, dim, generator=rng) @ mix + mean


def flow_of(kind: type[ExpertFlow] = SharedFlow, **changes: Any) -> ExpertFlow:
    settings: dict[str, Any] = {"dim": 8, "coupling_layers": 2, "lora_rank": 0, "dia_blocks": 1}
    return kind(**(settings | changes))


def nll(flow: ExpertFlow, x: Tensor, name: str) -> Tensor:
    z, logdet = flow(x, name)
    return patch_nll(z, logdet).mean()


def learn(flow: ExpertFlow, name: str, x: Tensor, strategy: ContinualStrategy, steps: int = 60) -> None:
    """Learn one task as the program does, with plain steps in place of its trainer."""
    flow.add_expert(name)
    flow.requires_grad_(False)
    learning = flow.trainable_parameters([name])
    for parameter in learning:
        parameter.requires_grad_()
    optimizer = torch.optim.Adam(learning, lr=5e-3)
    again = strategy.replay_samples(len(x))
    for _ in range(steps):
        for expert, part in {name: x, **again}.items():
            optimizer.zero_grad()
            loss = nll(flow, part, expert)
            penalty = strategy.penalty(flow)
            (loss if penalty is None else loss + penalty).backward()
            optimizer.step()
    flow.requires_grad_(False)
    strategy.learned(flow, {name: x})


def forgotten(kind: type[ExpertFlow], strategy: ContinualStrategy, **changes: Any) -> float:
    """Nats a patch that held-out images of a first task lose by two later ones."""
    flow = flow_of(kind, **changes)
    strategy.check(flow)
    learn(flow, "a", grids(1, 12)[:8], strategy)
    held = grids(1, 12)[8:]
    before = float(nll(flow, held, "a"))
    learn(flow, "b", grids(2, 8), strategy)
    learn(flow, "c", grids(3, 8), strategy)
    return float(nll(flow, held, "a")) - before


def test_one_flow_forgets_experts_do_not_and_rivals_lie_between() -> None:
    lost = forgotten(SharedFlow, ContinualStrategy())
    assert lost > 10
    assert forgotten(ExpertFlow, ContinualStrategy(), lora_rank=2) == 0
    assert forgotten(SharedFlow, EWC(weight=100.0)) < lost / 2
    assert forgotten(SharedFlow, Replay(images=6)) < lost / 2


def test_fisher_information_is_the_mean_of_squared_gradients() -> None:
    flow = flow_of()
    flow.add_expert("a")
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator(0, "nudge"))
    x = grids(1, 3)
    expected = {name: torch.zeros_like(p) for name, p in flow.named_parameters()}
    for grid in x:
        flow.zero_grad()
        nll(flow, grid[None], "a").backward()
        for name, parameter in flow.named_parameters():
            assert parameter.grad is not None
            expected[name] += parameter.grad**2 / 3
    found = fisher_information(flow, {"a": x[:1], "b": x[1:]} if flow.add_expert("b") else {})
    assert found.keys() == expected.keys() == shared_parameters(flow).keys()
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name])
        assert not flow.get_parameter(name).requires_grad


def test_the_penalty_is_that_of_the_paper() -> None:
    """Two tasks: 1/2 weight sum_i (decay F1_i + F2_i) (w_i - a_i)^2 with the anchor after the second."""
    strategy, flow = EWC(weight=3.0, decay=0.5), flow_of()
    assert strategy.penalty(flow) is None
    flow.add_expert("a")
    strategy.learned(flow, {"a": grids(1)})
    first = {name: value.clone() for name, value in strategy.fisher.items()}
    with torch.no_grad():
        next(iter(flow.parameters())).add_(0.3)
    second = fisher_information(flow, {"a": grids(2)})
    strategy.learned(flow, {"a": grids(2)})
    assert float(strategy.penalty(flow)) == 0  # type: ignore[arg-type]
    expected = 0.0
    with torch.no_grad():
        for i, (name, parameter) in enumerate(flow.named_parameters()):
            step = 0.01 * (i + 1)
            parameter += step
            expected += float(((0.5 * first[name] + second[name]) * step**2).sum())
    assert expected > 0
    assert float(strategy.penalty(flow)) == pytest.approx(1.5 * expected, rel=1e-4)  # type: ignore[arg-type]


def test_replay_keeps_to_its_budget_and_never_takes_back_what_it_dropped() -> None:
    def stream() -> list[dict[str, Tensor]]:
        strategy, flow, states = Replay(images=7), flow_of(), []
        for i, name in enumerate("abcd"):
            strategy.learned(flow, {name: grids(i, 10)})
            states.append(strategy.state())
        return states

    states, again = stream(), stream()
    assert [[len(grids) for grids in state.values()] for state in states] == [[7], [4, 3], [3, 2, 2], [2, 2, 2, 1]]
    for former, state in itertools.pairwise(states):
        assert all(torch.equal(state[key], former[key][: len(state[key])]) for key in former)
    for one, other in zip(states, again, strict=True):
        assert all(torch.equal(one[key], other[key]) for key in one)
    originals = grids(0, 10)
    assert all(any(torch.equal(kept, x) for x in originals) for kept in states[-1]["00000.a"])


def test_rehearsal_is_half_of_the_images_and_shows_every_remembered_one() -> None:
    strategy, flow = Replay(images=4), flow_of()
    assert strategy.replay_samples(10) == {}
    for i, name in enumerate("ab"):
        strategy.learned(flow, {name: grids(i, 10)})
    again = strategy.replay_samples(9)
    assert {name: len(x) for name, x in again.items()} == {"a": 5, "b": 4}
    assert torch.equal(again["a"][:2], again["a"][2:4])
    assert {name: len(x) for name, x in strategy.replay_samples(2).items()} == {"a": 2, "b": 2}
    assert split_evenly(7, 3) == [3, 2, 2]
    assert split_evenly(2, 3) == [1, 1, 0]


@pytest.mark.parametrize("strategy", [EWC(weight=1.0), Replay(images=5)])
def test_a_strategy_goes_on_from_its_state(strategy: ContinualStrategy) -> None:
    flow = flow_of()
    flow.add_expert("a")
    for i, name in enumerate(("b", "a")):  # not in alphabetical order
        strategy.learned(flow, {name: grids(i)}) if name in flow.names else flow.add_expert(name)
    other = EWC(weight=1.0) if isinstance(strategy, EWC) else Replay(images=5)
    other.load(strategy.state())
    strategy.learned(flow, {"b": grids(7)})
    other.learned(flow, {"b": grids(7)})
    one, two = strategy.state(), other.state()
    assert list(one) == list(two)
    assert all(torch.equal(one[key], two[key]) for key in one)


def test_what_protects_nothing_and_what_is_not_allowed_is_refused() -> None:
    for strategy in (EWC(weight=1.0), Replay(images=1)):
        with pytest.raises(UserError, match="continual=experts"):
            strategy.check(flow_of(ExpertFlow))
        strategy.check(flow_of(ExpertFlow, base="trainable"))
    with pytest.raises(UserError, match=r"continual\.weight=-1"):
        EWC(weight=-1)
    with pytest.raises(UserError, match=r"continual\.decay=2"):
        EWC(weight=1, decay=2)
    with pytest.raises(UserError, match=r"continual\.images=0"):
        Replay(images=0)
    with pytest.raises(UserError, match=r"model\.base=frozen"):
        flow_of(SharedFlow, base="trainable")
