"""What the experts of one task learn from."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from moleflow.data import Sample
from moleflow.model import MoLEFlow


@dataclass
class TaskData:
    """The training set of one task, by expert.

    Attributes:
        features: Patch features (N, H, W, D), on the device that trains, at the expert's own size.
        looks: Image features (N, D) of the same pictures as the router sees them, at the common size.
        pictures: Their names, for messages.
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
) -> TaskData:
    """Return what the experts of a task learn from.

    Args:
        model: The model, which has the experts already.
        groups: The categories of each expert.
        parted: Returns a category's training pictures: those to learn from, and those held out.
    """
    data = TaskData()
    for name, categories in groups.items():
        parts = [parted(category) for category in categories]
        samples = [sample for learned, _ in parts for sample in learned]
        paths = [sample.path for sample in samples]
        extractor, common = model.extractor_of(name), model.extractor
        grids = data.features[name] = extractor.features(paths).to(model.device)
        data.looks[name] = model.image_features(grids if extractor is common else common.features(paths))
        data.pictures[name] = [f"{sample.category}/{sample.path.name}" for sample in samples]
        if kept := [sample.path for _, held_out in parts for sample in held_out]:
            data.held_out[name] = extractor.features(kept).to(model.device)
    return data
