"""What cutting and shrinking does to marked defects, and maps brought back to their pictures."""

import numpy as np
import pytest
import torch
from PIL import Image

from moleflow.data.marks import Lost, Marks, lost, marks
from moleflow.data.transforms import PictureTransform


def test_a_defect_at_the_end_of_a_long_picture_is_cut_off() -> None:
    marked = np.zeros((40, 120), np.uint8)
    marked[10:20, 0:10] = 255
    mask = Image.fromarray(marked)
    assert marks(mask, PictureTransform(32)) == Marks(100, 0, 0)
    whole = marks(mask, PictureTransform(32, "pad"))
    assert whole[:2] == (100, 100)
    assert whole.left > 0
    marked[10:20, 50:70] = 255
    both = marks(Image.fromarray(marked), PictureTransform(32))
    assert both[:2] == (300, 200)
    assert lost([Marks(100, 0, 0), both, Marks(0, 0, 0)]) == Lost(2, 1, pytest.approx(0.5))
    assert lost([]) == Lost(0, 0, 0.0)


def test_a_speck_can_vanish_without_being_cut() -> None:
    marked = np.zeros((400, 400), np.uint8)
    marked[7, 7] = 255
    assert marks(Image.fromarray(marked), PictureTransform(32)) == Marks(1, 1, 0)


@pytest.mark.parametrize("mode", ["crop", "squash", "pad"])
@pytest.mark.parametrize("size", [(160, 96), (96, 160), (101, 100)])
@pytest.mark.parametrize("resolution", [(64, 64), (32, 48)])
def test_a_map_comes_back_to_where_its_picture_was(
    mode: str, size: tuple[int, int], resolution: tuple[int, int]
) -> None:
    transform = PictureTransform(64, mode)
    width, height = size
    marked = np.zeros((height, width), np.uint8)
    marked[height // 2 - 20 : height // 2 + 10, width // 2 - 10 : width // 2 + 25] = 255
    seen = transform.mask(Image.fromarray(marked)).float()
    on_map = torch.nn.functional.interpolate(seen[None, None], resolution, mode="area")[0, 0]
    back = transform.to_picture(on_map, size)
    assert back.shape == (height, width)
    found, wanted = back > 0.5, torch.from_numpy(marked > 0)
    assert (found & wanted).sum() / (found | wanted).sum() > 0.85
    rows, columns = transform.seen(size)
    looked_at = rows[:, None] & columns
    assert bool(back[looked_at].isfinite().all())
    assert bool((back[~looked_at] == -torch.inf).all())
    cut = mode == "crop" and abs(width - height) > 1  # 101 pixels beside 100 shrink to 64, as those do
    assert bool(looked_at.all()) != cut


def test_a_map_of_the_pictures_own_size_comes_back_as_it_is() -> None:
    ramp = torch.arange(48.0).view(6, 8)
    assert torch.equal(PictureTransform((6, 8), "squash").to_picture(ramp, (8, 6)), ramp)
