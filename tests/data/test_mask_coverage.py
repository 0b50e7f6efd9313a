"""Counts of defect pixels before and after cropping and resizing."""

import numpy as np
import pytest
from PIL import Image

from moleflow.data.mask_coverage import CoverageLoss, MaskCoverage, coverage_loss, mask_coverage
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
    assert message.startswith("bottle: after cropping and resizing (transform.mode=crop, 32 x 48), 25.0% of all defect")
    assert "1 of 3 masks have no defect pixel" in message
    assert message.endswith("Consider view=full.")


def test_message_leaves_out_losses_of_zero() -> None:
    message = CoverageLoss(3, 0, 0.25).message("bottle", ImageTransform(32))
    assert "25.0%" in message
    assert "masks" not in message
    message = CoverageLoss(3, 1, 0.0).message("bottle", ImageTransform(32, "squash"))
    assert "%" not in message
    assert message.endswith("Consider a larger transform.size.")
