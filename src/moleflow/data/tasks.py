"""Continual sequences: orders of categories, and their split into tasks."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import torch

from moleflow.utils.errors import UserError, check_range, did_you_mean
from moleflow.utils.random import generator


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
        "mvtec_loco": _names("breakfast_box juice_bottle pushpins screw_bag splicing_connectors"),
        "mvtec_ad2": _names("can fabric fruit_jelly rice sheet_metal vial wallplugs walnuts"),
        "btad": _names("01 02 03"),
        "real_iad": _names(
            "audiojack bottle_cap button_battery end_cap eraser fire_hood mint mounts pcb phone_battery plastic_nut "
            "plastic_plug porcelain_doll regulator rolled_strip_base sim_card_set switch tape terminalblock toothbrush "
            "toy toy_brick transistor1 u_block usb usb_adaptor vcpill wooden_beads woodstick zipper"
        ),
        "kolektor_sdd2": _names("kolektor_sdd2"),
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
"""Named orders of categories; those with the name of a data set are its default order."""


@dataclass(frozen=True)
class Task:
    """One task of the continual sequence.

    Attributes:
        index: Position in the sequence, from 0.
        categories: The categories of the task.
        name: Name in logs and file names, unique within the sequence.
        visit: 0 for the first task of its categories, 1 for the task of a category that returns.
    """

    index: int
    categories: tuple[str, ...]
    name: str
    visit: int = 0


def shuffled(categories: Sequence[str], order_seed: int | None) -> tuple[str, ...]:
    """Return categories in the random order of a seed.

    Args:
        categories: The categories.
        order_seed: The seed, which does not depend on that of the run; None: the order is not changed.

    Raises:
        UserError: If the seed is negative.
    """
    if order_seed is None:
        return tuple(categories)
    check_range("scenario.order_seed", order_seed, 0)
    order = torch.randperm(len(categories), generator=generator(order_seed, "task order")).tolist()
    return tuple(categories[i] for i in order)


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


def categories_of(tasks: Sequence[Task]) -> list[str]:
    """Return the categories of tasks in order of arrival, each once."""
    return list(dict.fromkeys(category for task in tasks for category in task.categories))


def with_returns(tasks: Sequence[Task], returning: Sequence[str]) -> list[Task]:
    """Return tasks followed by one task ``<category>@2`` per category that returns.

    Args:
        tasks: Tasks of all categories.
        returning: The categories that return, in order.

    Raises:
        UserError: If a category is in none of the tasks.
    """
    known = [category for task in tasks for category in task.categories]
    for category in returning:
        if category not in known:
            raise UserError(
                f"scenario.returning has {category!r}, which is no category of this run.{did_you_mean(category, known)}"
            )
    return [
        *tasks,
        *(Task(len(tasks) + i, (category,), f"{category}@2", visit=1) for i, category in enumerate(returning)),
    ]


def _task_name(categories: tuple[str, ...]) -> str:
    """Join up to three names; of more, the first and the last, which are unique as no category is in two tasks."""
    if len(categories) <= 3:
        return "+".join(categories)
    return f"{categories[0]}+{len(categories) - 2}more+{categories[-1]}"
