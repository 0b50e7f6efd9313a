"""Duplicates: test images with the content of a training image, and repeated images of one split."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from moleflow.data.findings import Finding
from moleflow.data.samples import Sample, Split


def train_test_duplicates(samples: Sequence[Sample], key: Callable[[Path], str]) -> Iterator[tuple[Sample, Sample]]:
    """Yield (training image, test image) for each test image with the content of a training image.

    Args:
        samples: Training and test images. Of several training images with one content, the first is yielded.
        key: Returns the same text for the same content of an image file, such as a digest.
    """
    training: dict[str, Sample] = {}
    for sample in samples:
        if sample.split == "train":
            training.setdefault(key(sample.path), sample)
    for sample in samples:
        if sample.split == "test" and (duplicate := training.get(key(sample.path))) is not None:
            yield duplicate, sample


def repeated_images(samples: Sequence[Sample], key: Callable[[Path], str]) -> Iterator[Finding]:
    """Yield one warning for each content that several images of a category and split have.

    Args:
        samples: The images.
        key: Returns the same text for the same content of an image file, such as a digest.
    """
    groups: dict[tuple[str, Split, str], list[Path]] = defaultdict(list)
    for sample in samples:
        groups[sample.category, sample.split, key(sample.path)].append(sample.path)
    for (category, split, _), paths in groups.items():
        if len(paths) > 1:
            message = f"{len(paths)} {split} images have the same content: {', '.join(map(str, paths))}."
            plural = f"{{count}} contents occur in several {split} images, such as {paths[0]} and {paths[1]}."
            yield Finding("warning", category, message, f"repeated {split} images", plural)
