"""Named random generators."""

import os

import torch

from moleflow.utils.random import generator


def test_names_that_are_not_utf8_have_streams() -> None:
    first, second = (torch.rand((), generator=generator(0, os.fsdecode(name))) for name in (b"\xb3", b"\xaa"))
    assert first != second


def test_a_draw_depends_on_seed_purpose_and_index_only() -> None:
    names: list[tuple[int, str, tuple[int | str, ...]]] = [
        (0, "order", ()), (1, "order", ()), (0, "permutation", ()), (0, "order", (1,)), (0, "order", (1, 2)),
        (0, "order", ("bottle",)),
    ]  # fmt: skip
    draws = [torch.rand(3, generator=generator(seed, purpose, *index)) for seed, purpose, index in names]
    for i, (seed, purpose, index) in enumerate(names):
        assert draws[i].equal(torch.rand(3, generator=generator(seed, purpose, *index)))
        assert not any(draws[i].equal(draw) for draw in draws[:i])


def test_the_draws_of_a_name_never_change() -> None:
    assert torch.randint(1000, (4,), generator=generator(0, "order", 1)).tolist() == [661, 999, 484, 2]
