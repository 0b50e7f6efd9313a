"""What the experts of one task learn from."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from moleflow.data import Sample
from moleflow.model import MoLEFlow


@dataclass
class TaskData:
    """The training set of one task, by expert.

    Attributes:
        features: Patch features (V N, H, W, D), on the device that trains, at the expert's own size: those of its N
            pictures as they lie, then those of all of them in one turn after the other, if it learns them turned too.
        looks: Image features (N, D) of the pictures as they lie and as the router sees them, at the common size.
        pictures: Names of the V N pictures, for messages.
        held_out: Patch features of pictures that nothing is learned from; without the experts that have none.
    """

    features: dict[str, Tensor] = field(default_factory=dict)
    looks: dict[str, Tensor] = field(default_factory=dict)
    pictures: dict[str, list[str]] = field(default_factory=dict)
    held_out: dict[str, Tensor] = field(default_factory=dict)


def task_data(
    model: MoLEFlow,
    groups: Mapping[str, Sequence[str]],
    parted: Callable[[str], tuple[list[Sample], list[Sample]]],
    turns: Callable[[Sequence[str]], Sequence[str]],
) -> TaskData:
    """Return what the experts of a task learn from.

    Args:
        model: The model, which has the experts already.
        groups: The categories of each expert.
        parted: Returns a category's training pictures: those to learn from, and those held out.
        turns: Returns how the pictures of an expert of these categories are also turned.
    """
    data = TaskData()
    for name, categories in groups.items():
        parts = [parted(category) for category in categories]
        samples = [sample for learned, _ in parts for sample in learned]
        paths = [sample.path for sample in samples]
        extractor, common = model.extractor_of(name), model.extractor
        grids = extractor.features(paths)
        data.looks[name] = model.image_features(grids if extractor is common else common.features(paths))
        pictures = [f"{sample.category}/{sample.path.name}" for sample in samples]
        ways = turns(categories)
        own = model.notes[name].get("settings", {})
        turned = [model.parts.extractor(own, way).features(paths) for way in ways]
        data.features[name] = (torch.cat([grids, *turned]) if turned else grids).to(model.device)  # no copy for nothing
        data.pictures[name] = pictures + [f"{picture} ({way})" for way in ways for picture in pictures]
        if kept := [sample.path for _, held_out in parts for sample in held_out]:
            data.held_out[name] = extractor.features(kept).to(model.device)
    return data
