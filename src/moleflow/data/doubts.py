"""What is worth a word before a run learns from a data set, as far as it costs next to nothing."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from moleflow.data.datamodule import PictureDataModule
from moleflow.data.sample import Sample, Split


def doubts(data: PictureDataModule, key: Callable[[Path], str]) -> Iterator[str]:
    """Yield one sentence for each thing that makes results of these pictures doubtful.

    The whole examination is ``python -m moleflow.data check ROOT``; this is its cheap part, for every run.

    Args:
        data: Training and test pictures of the run.
        key: Names a picture by its content.

    Raises:
        UserError: If a picture or a mask cannot be read.
    """
    splits: tuple[Split, ...] = ("train", "test")
    samples = [sample for category in data.categories for split in splits for sample in data.samples(split, category)]
    for category in data.categories:
        tests = data.samples("test", category)
        for label, what in ((0, "normal test pictures"), (1, "test pictures with a defect")):
            if not any(sample.label == label for sample in tests):
                yield f"{category} has no {what}: its AUROC does not exist and is left out of the means."
    for learned, tested in shared_pictures(samples, key):
        yield f"{tested.path} has the same content as {learned.path}: it is tested on and was learned from."
    for sample in samples:
        if sample.mask and not data.marks(sample).pixels:
            yield f"{sample.mask} marks nothing, though {sample.path} is said to have a defect."
    for category in data.categories:
        lost = data.lost(category)
        if lost.emptied or lost.pixels:
            yield lost.sentence(category, data.transform)


def shared_pictures(samples: Sequence[Sample], key: Callable[[Path], str]) -> Iterator[tuple[Sample, Sample]]:
    """Yield each test picture whose content is learned from, with the first training picture of that content.

    Args:
        samples: Training and test pictures.
        key: Names a picture by its content.
    """
    learned: dict[str, list[Sample]] = defaultdict(list)
    for sample in samples:
        if sample.split == "train":
            learned[key(sample.path)].append(sample)
    for sample in samples:
        if sample.split == "test" and (same := learned.get(key(sample.path))):
            yield same[0], sample
