"""What is worth a word before a run learns from a data set, as far as it costs next to nothing."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from moleflow.data.read import read_mask
from moleflow.data.sample import Sample


def doubts(samples: Sequence[Sample], key: Callable[[Path], str]) -> Iterator[str]:
    """Yield one sentence for each thing that makes results of these samples doubtful.

    The whole examination is ``python -m moleflow.data check ROOT``; this is its cheap part, for every run.

    Args:
        samples: Training and test pictures of the run.
        key: Names a picture by its content.

    Raises:
        UserError: If a picture or a mask cannot be read.
    """
    for category in dict.fromkeys(sample.category for sample in samples):
        tests = [sample for sample in samples if (sample.category, sample.split) == (category, "test")]
        for label, what in ((0, "normal test pictures"), (1, "test pictures with a defect")):
            if not any(sample.label == label for sample in tests):
                yield f"{category} has no {what}: its AUROC does not exist and is left out of the means."
    for learned, tested in shared_pictures(samples, key):
        yield f"{tested.path} has the same content as {learned.path}: it is tested on and was learned from."
    for sample in samples:
        if sample.mask and not any(read_mask(sample.mask).getextrema()):
            yield f"{sample.mask} marks nothing, though {sample.path} is said to have a defect."


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
