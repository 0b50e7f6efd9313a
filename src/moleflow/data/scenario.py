"""The continual sequence: an order of categories, cut into tasks."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from moleflow.errors import UserError


def _names(spaced: str) -> tuple[str, ...]:
    return tuple(spaced.split())


_MVTEC = _names(
    "bottle cable capsule carpet grid hazelnut leather metal_nut pill screw tile toothbrush transistor wood zipper"
)


def _led_by(first: str) -> tuple[str, ...]:
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
        "wood_first": _led_by("wood"),
        "transistor_first": _led_by("transistor"),
        "carpet_first": _led_by("carpet"),
        "metal_nut_first": _led_by("metal_nut"),
        "interaction": _MVTEC[:5],
        "pilot": ("leather", "grid", "transistor"),
    }
)
"""Named orders of categories; the first three are the default orders of their data sets."""


@dataclass(frozen=True)
class Task:
    """One step of the continual sequence.

    Attributes:
        index: Place in the sequence, from 0.
        categories: The categories that arrive together.
        name: What the task is called in logs and file names; unique within its sequence.
    """

    index: int
    categories: tuple[str, ...]
    name: str


def cut(categories: Sequence[str], scenario: str = "1-1") -> list[Task]:
    """Cut an order of categories into tasks.

    Args:
        categories: All categories, in the order in which they arrive.
        scenario: ``"b-i"``: the first task holds ``b`` categories, each later one ``i`` (the last may hold fewer).

    Raises:
        UserError: If the scenario is malformed or longer than the categories, or a category appears twice.
    """
    match = re.fullmatch(r"([1-9]\d*)-([1-9]\d*)", str(scenario))
    if match is None:
        raise UserError(
            f"scenario={scenario} is malformed. Write two positive integers: categories in the first task, "
            "categories in each later task; for example scenario=10-5."
        )
    base, step = int(match[1]), int(match[2])
    twice = sorted({category for category in categories if list(categories).count(category) > 1})
    if twice:
        raise UserError(f"The categories name {', '.join(twice)} more than once. Name each category once.")
    if base > len(categories):
        raise UserError(
            f"scenario={scenario} asks for {base} categories in the first task, but there are {len(categories)}. "
            "Choose a shorter scenario or more categories (dataset.categories)."
        )
    starts = [0, *range(base, len(categories), step)]
    chunks = [tuple(categories[a:b]) for a, b in zip(starts, [*starts[1:], len(categories)], strict=True)]
    return [Task(index, chunk, _name(chunk)) for index, chunk in enumerate(chunks)]


def _name(categories: tuple[str, ...]) -> str:
    """Join up to three names; of more, keep the first and the last. Unique, as no category is in two tasks."""
    if len(categories) <= 3:
        return "+".join(categories)
    return f"{categories[0]}+{len(categories) - 2}more+{categories[-1]}"
