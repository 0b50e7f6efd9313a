"""Images with equal content: between training and test, within one split, and too few different ones."""

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


def too_few_training_images(samples: Sequence[Sample], key: Callable[[Path], str]) -> Iterator[Finding]:
    """Yield one error for each category whose training images have a single content.

    They determine no spread of scores, and therefore no threshold. Categories without any are left out.

    Args:
        samples: The images.
        key: Returns the same text for the same content of an image file, such as a digest.
    """
    contents: dict[str, list[str]] = defaultdict(list)
    for sample in samples:
        if sample.split == "train":
            contents[sample.category].append(key(sample.path))
    for category, keys in contents.items():
        if len(set(keys)) == 1:
            number = "one training image" if len(keys) == 1 else f"{len(keys)} training images that are copies of one"
            yield Finding(
                "error",
                category,
                f"{category} has {number}: no threshold can be computed. Add images of other good parts, at least one "
                "and better 30 or more.",
            )
