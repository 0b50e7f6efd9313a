import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import v2

from moleflow.data.transforms import IMAGENET_MEAN, IMAGENET_STD, PictureTransform
from moleflow.errors import UserError


def noisy(width, height, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.mark.parametrize("size", [(40, 40), (61, 40), (40, 61), (33, 97), (224, 225), (20, 31)])
def test_square_crop_is_torchvisions_resize_and_centre_crop(size):
    picture = noisy(*size)
    oracle = v2.Compose(
        [
            v2.Resize(32, interpolation=v2.InterpolationMode.LANCZOS),
            v2.CenterCrop(32),
            v2.PILToTensor(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(IMAGENET_MEAN, IMAGENET_STD),
        ]
    )
    torch.testing.assert_close(PictureTransform(32)(picture), oracle(picture), atol=1e-6, rtol=0)


@given(
    width=st.integers(1, 90),
    height=st.integers(1, 90),
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    mode=st.sampled_from(["crop", "squash", "pad"]),
)
@settings(max_examples=80, deadline=None)
def test_every_shape_fits_and_mask_follows(width, height, size, mode):
    transform = PictureTransform(size, mode)
    image = transform(noisy(width, height))
    mask = transform.mask(Image.new("L", (width, height), 3))
    assert image.shape == (3, *size)
    assert image.dtype == torch.float32
    assert image.isfinite().all()
    assert mask.shape == size
    assert mask.dtype == torch.bool
    # A full mask covers just what the picture covers: all, or all but the padding, which is 0.
    assert mask.all() or mode == "pad"
    assert (image[:, ~mask] == 0).all()
    rows, columns = mask.any(1).nonzero(), mask.any(0).nonzero()
    assert len(rows) == size[0] or len(columns) == size[1]
    for place, length in ((rows, size[0]), (columns, size[1])):
        assert abs(int(place.min()) - (length - 1 - int(place.max()))) <= 1  # centred


@pytest.mark.parametrize("mode", ["crop", "squash", "pad"])
@pytest.mark.parametrize("size", [32, (24, 40), (40, 24)])
@pytest.mark.parametrize("shape", [(150, 150), (100, 160), (170, 90)])
def test_a_marked_square_moves_with_its_picture(mode, size, shape):
    width, height = shape
    square = np.zeros((height, width), np.uint8)
    square[height // 2 - 30 : height // 2 + 10, width // 2 - 10 : width // 2 + 30] = 1
    transform = PictureTransform(size, mode, mean=(0.0,) * 3, std=(1.0,) * 3)
    lit = transform(Image.fromarray(square * 255))[0] > 0.5
    mask = transform.mask(Image.fromarray(square))
    assert mask.sum() > 20
    # Lanczos and nearest may disagree on the outline only.
    assert (lit != mask).sum() <= mask.any(0).sum() + mask.any(1).sum()
    rows, columns = torch.where(mask)
    lit_rows, lit_columns = torch.where(lit)
    assert abs(rows.float().mean() - lit_rows.float().mean()) < 0.6
    assert abs(columns.float().mean() - lit_columns.float().mean()) < 0.6


def test_padding_is_the_mean_colour_and_marks_nothing():
    transform = PictureTransform((20, 40), "pad")
    image = transform(Image.new("RGB", (10, 10), (255, 0, 255)))
    mask = transform.mask(Image.new("L", (10, 10), 1))
    assert (image[:, :, :10] == 0).all()
    assert (image[:, :, 30:] == 0).all()
    assert (image[:, :, 10:30].abs() > 0.5).all()
    assert mask[:, 10:30].all()
    assert mask.sum() == 400


def test_spec_is_json_and_tells_every_argument_apart():
    base = {"size": 32, "mode": "crop", "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
    others = [{"size": (32, 33)}, {"mode": "pad"}, {"mean": (0.4, 0.5, 0.5)}, {"std": (0.5, 0.5, 0.4)}]
    specs = [json.dumps(PictureTransform(**{**base, **other}).spec(), sort_keys=True) for other in ({}, *others)]
    assert len(set(specs)) == len(specs)
    assert PictureTransform(32).spec() == PictureTransform([32, 32]).spec()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size": 0}, "size=0 is no picture size"),
        ({"size": 224.0}, "size=224.0 is no picture size"),
        ({"size": (1, 2, 3)}, "no picture size"),
        ({"size": 32, "mode": "crpo"}, "mode=crpo is unknown.*'crop'"),
        ({"size": 32, "mean": (0.5,)}, "three numbers each"),
        ({"size": 32, "std": (0.5, 0, 0.5)}, "std above 0"),
    ],
)
def test_nonsense_is_told(arguments, message):
    with pytest.raises(UserError, match=message):
        PictureTransform(**arguments)
