"""Continual sequences: orders of categories, and their split into tasks."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from moleflow.utils.errors import UserError


def _names(spaced: str) -> tuple[str, ...]:
    return tuple(spaced.split())


_MVTEC = _names(
    "bottle cable capsule carpet grid hazelnut leather metal_nut pill screw tile toothbrush transistor wood zipper"
)


def _move_to_front(first: str) -> tuple[str, ...]:
    return (first, *(category for category in _MVTEC if category != first))


ORDERS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "mvtec": _MVTEC,
        "visa": _names("candle capsules cashew chewinggum fryum macaroni1 macaroni2 pcb1 pcb2 pcb3 pcb4 pipe_fryum"),
        "mpdd": _names("bracket_black bracket_brown bracket_white connector metal_plate tubes"),
        "texture_first": _names(
            "carpet grid leather tile wood bottle cable capsule hazelnut metal_nut "
            "pill screw toothbrush transistor zipper"
        ),
        "hard_first": _names(
            "screw toothbrush capsule cable pill grid zipper transistor carpet wood "
            "hazelnut metal_nut leather tile bottle"
        ),
        "easy_first": _names(
            "bottle leather metal_nut tile hazelnut carpet grid cable pill zipper "
            "transistor wood capsule toothbrush screw"
        ),
        "wood_first": _move_to_front("wood"),
        "transistor_first": _move_to_front("transistor"),
        "carpet_first": _move_to_front("carpet"),
        "metal_nut_first": _move_to_front("metal_nut"),
        "interaction": _MVTEC[:5],
        "pilot": ("leather", "grid", "transistor"),
    }
)
"""Named orders of categories; the first three are the default orders of their data sets."""


@dataclass(frozen=True)
class Task:
    """One task of the continual sequence.

    Attributes:
        index: Position in the sequence, from 0.
        categories: The categories of the task.
        name: Name in logs and file names, unique within the sequence.
    """

    index: int
    categories: tuple[str, ...]
    name: str


def split_into_tasks(categories: Sequence[str], scenario: str = "1-1") -> list[Task]:
    """Split an order of categories into tasks.

    Args:
        categories: All categories, in the order of the continual sequence.
        scenario: ``"b-i"``: the first task has ``b`` categories, each later one ``i`` (the last may have fewer).

    Raises:
        UserError: If the scenario is malformed, its first task has more categories than there are, or a category
            appears twice.
    """
    match = re.fullmatch(r"([1-9]\d*)-([1-9]\d*)", str(scenario))
    if match is None:
        raise UserError(
            f"scenario={scenario} must be two positive integers, categories in the first task and categories in each "
            "later task, for example scenario=10-5."
        )
    base, step = int(match[1]), int(match[2])
    repeated = sorted({category for category in categories if list(categories).count(category) > 1})
    if repeated:
        raise UserError(
            f"dataset.categories={list(categories)} contains {', '.join(repeated)} more than once. "
            "List each category once."
        )
    if base > len(categories):
        raise UserError(
            f"scenario={scenario} has {base} categories in the first task, but there are only {len(categories)}. "
            "Choose a smaller first task or more categories (dataset.categories)."
        )
    starts = [0, *range(base, len(categories), step)]
    chunks = [tuple(categories[a:b]) for a, b in zip(starts, [*starts[1:], len(categories)], strict=True)]
    return [Task(index, chunk, _task_name(chunk)) for index, chunk in enumerate(chunks)]


def _task_name(categories: tuple[str, ...]) -> str:
    """Join up to three names; of more, the first and the last, which are unique as no category is in two tasks."""
    if len(categories) <= 3:
        return "+".join(categories)
    return f"{categories[0]}+{len(categories) - 2}more+{categories[-1]}"
