"""Image transforms: geometry of images, masks and anomaly maps, and augmentation by flips and rotations."""

import json
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from torchvision.transforms import v2  # type: ignore[import-untyped]

from moleflow.data.transforms import (
    AUGMENTATIONS,
    IMAGENET_MEAN,
    IMAGENET_STD,
    MODES,
    FlippedTransform,
    ImageTransform,
    proportional_size,
)
from moleflow.utils.errors import UserError


def noise_image(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.mark.parametrize("size", [(40, 40), (61, 40), (40, 61), (33, 97), (224, 225), (20, 31)])
def test_square_crop_equals_torchvision(size: tuple[int, int]) -> None:
    image = noise_image(*size)
    reference = v2.Compose(
        [
            v2.Resize(32, interpolation=v2.InterpolationMode.LANCZOS),
            v2.CenterCrop(32),
            v2.PILToTensor(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(IMAGENET_MEAN, IMAGENET_STD),
        ]
    )
    torch.testing.assert_close(ImageTransform(32)(image), reference(image), atol=1e-6, rtol=0)


@given(
    width=st.integers(1, 90),
    height=st.integers(1, 90),
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    mode=st.sampled_from(MODES),
)
@settings(max_examples=80, deadline=None)
def test_image_and_mask_of_any_size_cover_the_same_area(
    width: int, height: int, size: tuple[int, int], mode: str
) -> None:
    transform = ImageTransform(size, mode)
    image = transform(noise_image(width, height))
    mask = transform.mask(Image.new("L", (width, height), 3))
    assert image.shape == (3, *size)
    assert image.dtype == torch.float32
    assert image.isfinite().all()
    assert mask.shape == size
    assert mask.dtype == torch.bool
    # A full mask covers the area of the image: everything except the padding, which is 0.
    assert mask.all() or mode == "pad"
    assert (image[:, ~mask] == 0).all()
    rows, columns = mask.any(1).nonzero(), mask.any(0).nonzero()
    assert len(rows) == size[0] or len(columns) == size[1]
    for positions, length in ((rows, size[0]), (columns, size[1])):
        assert abs(int(positions.min()) - (length - 1 - int(positions.max()))) <= 1  # centered


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("size", [32, (24, 40), (40, 24)])
@pytest.mark.parametrize("shape", [(150, 150), (100, 160), (170, 90)])
def test_mask_moves_with_its_image(mode: str, size: int | tuple[int, int], shape: tuple[int, int]) -> None:
    width, height = shape
    square = np.zeros((height, width), np.uint8)
    square[height // 2 - 30 : height // 2 + 10, width // 2 - 10 : width // 2 + 30] = 1
    transform = ImageTransform(size, mode, mean=(0.0,) * 3, std=(1.0,) * 3)
    bright = transform(Image.fromarray(square * 255))[0] > 0.5
    mask = transform.mask(Image.fromarray(square))
    assert mask.sum() > 20
    # Lanczos and nearest-neighbor resampling may differ on the outline only.
    assert (bright != mask).sum() <= mask.any(0).sum() + mask.any(1).sum()
    rows, columns = torch.where(mask)
    bright_rows, bright_columns = torch.where(bright)
    assert abs(rows.float().mean() - bright_rows.float().mean()) < 0.6
    assert abs(columns.float().mean() - bright_columns.float().mean()) < 0.6


def test_padding_has_the_mean_color_and_an_empty_mask() -> None:
    transform = ImageTransform((20, 40), "pad")
    image = transform(Image.new("RGB", (10, 10), (255, 0, 255)))
    mask = transform.mask(Image.new("L", (10, 10), 1))
    assert (image[:, :, :10] == 0).all()
    assert (image[:, :, 30:] == 0).all()
    assert (image[:, :, 10:30].abs() > 0.5).all()
    assert mask[:, 10:30].all()
    assert mask.sum() == 400


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("size", [(160, 96), (96, 160), (101, 100)])
@pytest.mark.parametrize("resolution", [(64, 64), (32, 48)])
def test_map_is_mapped_back_to_the_pixels_of_its_image(
    mode: str, size: tuple[int, int], resolution: tuple[int, int]
) -> None:
    transform = ImageTransform(64, mode)
    width, height = size
    marked = np.zeros((height, width), np.uint8)
    marked[height // 2 - 20 : height // 2 + 10, width // 2 - 10 : width // 2 + 25] = 255
    mask = transform.mask(Image.fromarray(marked)).float()
    anomaly_map = torch.nn.functional.interpolate(mask[None, None], resolution, mode="area")[0, 0]
    on_image = transform.to_image(anomaly_map, size)
    assert on_image.shape == (height, width)
    result, expected = on_image > 0.5, torch.from_numpy(marked > 0)
    assert (result & expected).sum() / (result | expected).sum() > 0.85
    rows, columns = transform.visible(size)
    visible = rows[:, None] & columns
    assert bool(on_image[visible].isfinite().all())
    assert bool((on_image[~visible] == -torch.inf).all())
    cropped = mode == "crop" and abs(width - height) > 1  # 101 pixels and 100 pixels are both resized to 64
    assert bool(visible.all()) != cropped


def test_map_of_the_image_resolution_is_unchanged() -> None:
    ramp = torch.arange(48.0).view(6, 8)
    assert torch.equal(ImageTransform((6, 8), "squash").to_image(ramp, (8, 6)), ramp)


def test_spec_is_json_and_differs_for_each_argument() -> None:
    base: dict[str, Any] = {"size": 32, "mode": "crop", "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
    others: list[dict[str, Any]] = [
        {"size": (32, 33)},
        {"mode": "pad"},
        {"mean": (0.4, 0.5, 0.5)},
        {"std": (0.5, 0.5, 0.4)},
        {"input_range": [0, 4095]},
        {"input_range": [0, 1023]},
    ]
    specs = [json.dumps(ImageTransform(**{**base, **other}).spec(), sort_keys=True) for other in ({}, *others)]
    assert len(set(specs)) == len(specs)
    assert ImageTransform(32).spec() == ImageTransform([32, 32]).spec()


def test_spec_is_part_of_the_cache_key() -> None:
    """A change of the specification would make all cached features invalid."""
    assert ImageTransform((32, 48), "pad", (0.5,) * 3, (0.25,) * 3).spec() == {
        "size": [32, 48],
        "mode": "pad",
        "filter": "lanczos",
        "mean": [0.5, 0.5, 0.5],
        "std": [0.25, 0.25, 0.25],
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size": 0}, "^size=0 must be one positive integer"),
        ({"size": 224.0}, "^size=224.0 must be one positive integer"),
        ({"size": (1, 2, 3)}, "or .height, width."),
        ({"size": 32, "mode": "crpo"}, "mode=crpo is unknown.*'crop'"),
        ({"size": 32, "mean": (0.5,)}, "^mean=.*three values each"),
        ({"size": 32, "std": (0.5, 0, 0.5)}, "std above 0"),
        ({"size": 32, "input_range": "atuo"}, "^input_range=atuo must be auto, or .low, high."),
        ({"size": 32, "input_range": [4095, 0]}, "with low below high"),
        ({"size": 32, "input_range": [0, 1, 2]}, "must be auto, or"),
        ({"size": 32, "input_range": [0, float("inf")]}, "must be auto, or"),
    ],
)
def test_invalid_argument_raises(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        ImageTransform(**arguments)


def transposed(array: NDArray[Any]) -> dict[str, NDArray[Any]]:
    """Return an array (H, W, ...) in the seven other orientations, computed with numpy."""
    swapped = array.swapaxes(0, 1)
    return {
        "flip_left_right": array[:, ::-1],
        "flip_top_bottom": array[::-1],
        "rotate_90": np.rot90(array),
        "rotate_180": np.rot90(array, 2),
        "rotate_270": np.rot90(array, 3),
        "transpose": swapped,
        "transverse": swapped[::-1, ::-1],
    }


@pytest.mark.parametrize("flip", AUGMENTATIONS["all"])
@pytest.mark.parametrize("size", [16, (12, 20)])
def test_flipped_transform_equals_the_transform_of_a_flipped_file(flip: str, size: int | tuple[int, int]) -> None:
    transform, image = ImageTransform(size), noise_image(40, 24)
    flipped_image = Image.fromarray(np.ascontiguousarray(transposed(np.asarray(image))[flip]))
    assert torch.equal(FlippedTransform(transform, flip)(image), transform(flipped_image))
    mask = np.zeros((24, 40), np.uint8)
    mask[4:9, 10:30] = 255
    flipped_mask = Image.fromarray(np.ascontiguousarray(transposed(mask)[flip]))
    assert torch.equal(FlippedTransform(transform, flip).mask(Image.fromarray(mask)), transform.mask(flipped_mask))


def test_each_flip_has_its_own_spec() -> None:
    transform = ImageTransform(16)
    flipped = [FlippedTransform(transform, flip).spec() for flip in AUGMENTATIONS["all"]]
    assert len({str(spec) for spec in (transform.spec(), *flipped)}) == 8
    assert flipped[0] == {**transform.spec(), "flip": AUGMENTATIONS["all"][0]}


@pytest.mark.parametrize("augmentation", AUGMENTATIONS)
def test_transposes_of_each_augmentation_form_a_group(augmentation: str) -> None:
    """With a group, no orientation of an image is preferred."""
    square = np.arange(9).reshape(3, 3)

    def orientations(array: NDArray[Any]) -> set[bytes]:
        return {array.tobytes(), *(transposed(array)[flip].tobytes() for flip in AUGMENTATIONS[augmentation])}

    assert len(orientations(square)) == {"none": 1, "flips": 4, "rotations": 4, "all": 8}[augmentation]
    for flip in AUGMENTATIONS[augmentation]:
        assert orientations(np.ascontiguousarray(transposed(square)[flip])) == orientations(square)


@given(side=st.integers(64, 448), ratio=st.floats(0.05, 20), step=st.sampled_from([(8, 8), (16, 16), (14, 14)]))
def test_proportional_size_has_the_aspect_ratio_and_the_pixels(side: int, ratio: float, step: tuple[int, int]) -> None:
    height, width = proportional_size(side, ratio, step)
    if height == width:
        assert height == side
        return
    assert height % step[0] == width % step[1] == 0
    assert min(height, width) >= 2 * step[0]
    if min(side / ratio**0.5, side * ratio**0.5) >= 2 * step[0]:
        assert abs(height - side / ratio**0.5) <= step[0] / 2
        assert abs(width - side * ratio**0.5) <= step[1] / 2


def test_proportional_sizes_of_some_products() -> None:
    assert proportional_size(224, 208 / 512, (16, 16)) == (352, 144)
    assert proportional_size(224, 384 / 288, (16, 16)) == (192, 256)
    assert proportional_size(224, 1.03, (16, 16)) == (224, 224)
    assert proportional_size(100, 1, (16, 16)) == (100, 100)  # as without proportions


def test_proportional_transform_equals_squash() -> None:
    image = Image.fromarray(np.arange(30 * 50 * 3, dtype=np.uint8).reshape(30, 50, 3))
    squash, proportional = ImageTransform((16, 32), "squash"), ImageTransform((16, 32), "proportional")
    assert torch.equal(squash(image), proportional(image))
    assert squash.spec() == proportional.spec()
