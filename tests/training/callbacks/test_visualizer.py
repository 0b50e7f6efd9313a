"""Tests of the figures of a finished run."""

from PIL import Image

from helpers.detectors import SmallRun


def test_run_folder_has_all_figures(small_run: SmallRun) -> None:
    names = {path.name for path in (small_run.folder / "pictures").iterdir()}
    assert names == {
        "examples_bottle.jpg",
        "examples_screw.jpg",
        "curves.png",
        "scores.png",
        "learning.png",
        "routing.png",
    }
    for name in names:
        with Image.open(small_run.folder / "pictures" / name) as image:
            assert image.size[0] > 150
