"""Counts of defect pixels before and after cropping and resizing."""

import numpy as np
import pytest
from PIL import Image

from moleflow.data.mask_coverage import CoverageLoss, CropLoss, MaskCoverage, coverage_loss, crop_loss, mask_coverage
from moleflow.data.transforms import ImageTransform


def test_defect_outside_the_crop_is_lost() -> None:
    marked = np.zeros((40, 120), np.uint8)
    marked[10:20, 0:10] = 255
    mask = Image.fromarray(marked)
    assert mask_coverage(mask, ImageTransform(32)) == MaskCoverage(100, 0, 0, total=4800)
    padded = mask_coverage(mask, ImageTransform(32, "pad"))
    assert padded[:2] == (100, 100)
    assert padded.transformed > 0
    marked[10:20, 50:70] = 255
    both = mask_coverage(Image.fromarray(marked), ImageTransform(32))
    assert both[:2] == (300, 200)
    masks = [MaskCoverage(100, 0, 0), both, MaskCoverage(0, 0, 0)]
    loss = coverage_loss(masks)
    assert loss[:2] == (2, 1)
    assert loss.pixels == pytest.approx(0.5)


def test_loss_of_no_masks_is_zero() -> None:
    assert coverage_loss([]) == CoverageLoss(0, 0, 0.0)


def test_single_pixel_can_vanish_without_being_cropped() -> None:
    marked = np.zeros((400, 400), np.uint8)
    marked[7, 7] = 255
    assert mask_coverage(Image.fromarray(marked), ImageTransform(32)) == MaskCoverage(1, 1, 0, total=160_000)


def test_keys_of_the_loss_in_metrics_json() -> None:
    assert coverage_loss([MaskCoverage(4, 3, 0)])._asdict() == {"masks": 1, "emptied": 1, "pixels": 0.25}


def test_message_names_category_transform_and_counts() -> None:
    message = CoverageLoss(3, 1, 0.25).message("bottle", ImageTransform((32, 48)))
    assert message.startswith("bottle: after the transform to 32 x 48 pixels, 1 of 3 masks have no defect pixel.")


def test_crop_removes_shares_of_images_and_masks() -> None:
    masks = [MaskCoverage(30, 0, 0), MaskCoverage(10, 10, 4), MaskCoverage(0, 0, 0)]
    sizes = {"bottle": [(40, 40)], "screw": [(80, 40), (40, 40), (40, 80)]}
    loss = crop_loss(sizes, masks, ImageTransform(32))
    assert loss == CropLoss(0.25, 0.75, 1, 2, "screw", pytest.approx(1 / 3))
    assert str(loss) == (
        "25.0% of the area of the images (screw: 33.3%) and 75.0% of the defect pixels, all of them in 1 of 2 masks"
    )
    assert str(loss._replace(emptied=0)).endswith("75.0% of the defect pixels")
    whole = crop_loss(sizes, [], ImageTransform(32, "proportional"))
    assert (whole.area, whole.largest) == (0, 0)
    assert str(whole) == "0.0% of the area of the images (bottle: 0.0%)"
