"""Groups of training images by regular expressions and folders."""

from pathlib import Path
from typing import Any

import pytest

from helpers.trees import write_mvtec_tree
from moleflow.data.datamodule import FolderDataModule, ImageDataModule
from moleflow.data.groups import ImageGroups, group_indices
from moleflow.data.mixed import MixedDataModule
from moleflow.data.samples import Sample
from moleflow.data.splits import ValidationSplit
from moleflow.data.transforms import ImageTransform
from moleflow.utils.errors import UserError

TRANSFORM = ImageTransform(32)
LEATHER = (  # of docs/predicting.md: 16 tiles per photograph
    r"leather/train/good/0(?:()(?:0\d|1[0-5])|()(?:1[6-9]|2\d|3[01])|()(?:3[2-9]|4[0-7])|()(?:4[89]|5\d|6[0-3])"
    r"|()(?:6[4-9]|7\d))|(.*)"
)


def grouped(names: str) -> list[Sample]:
    return [Sample(Path(f"{i}.png"), "nut", "train", "good", None, group) for i, group in enumerate(names)]


def test_images_of_equal_capture_groups_are_one_group() -> None:
    groups = ImageGroups(r"(day\d)_.*_(left|right)")
    names = ["day1_000_left", "day1_001_left", "day1_000_right", "day2_000_left"]
    assert len({groups(f"nut/train/good/{name}.png") for name in names}) == 3


def test_without_capture_groups_the_match_is_the_group() -> None:
    assert ImageGroups("day[12]")("nut/train/good/day2_000.png") == "day2"


def test_expression_of_the_documents_divides_leather_into_its_photographs() -> None:
    groups = ImageGroups(LEATHER)
    found = [groups(f"leather/train/good/{i:03}.png") for i in range(80)]
    numbers = {group: i for i, group in enumerate(dict.fromkeys(found))}
    assert [numbers[group] for group in found] == [i // 16 for i in range(80)]
    assert len({groups(f"cookie/train/good/{i:03}.png") for i in range(31)}) == 31
    assert LEATHER in (Path(__file__).parents[2] / "docs/predicting.md").read_text()


@pytest.mark.parametrize("rule", ["", 0, -1, True, 1.5, "(", ["a"]])
def test_invalid_rule_is_an_error(rule: Any) -> None:
    with pytest.raises(UserError, match=r"dataset\.group=.* must be a regular expression .* or a number of folders"):
        ImageGroups(rule)


def test_indices_are_equal_within_groups_and_unique_without() -> None:
    assert group_indices(grouped("abacb")).tolist() == [0, 1, 0, 2, 1]
    alone = [Sample(Path("a.png"), "nut", "train", "good", None)] * 3
    assert group_indices(alone).tolist() == [0, 1, 2]


@pytest.mark.parametrize(("amount", "smallest"), [(1, 1), (0.3, 3), (4, 4)])
def test_validation_images_are_whole_groups(amount: float, smallest: int) -> None:
    training, validation = ValidationSplit(amount, 0)(grouped("aabbccddee"))
    assert not {sample.group for sample in training} & {sample.group for sample in validation}
    assert smallest <= len(validation) <= smallest + 1


def test_validation_leaves_a_group_for_training() -> None:
    with pytest.raises(UserError, match=r"validation=3 must leave at least one of the 2 groups of nut"):
        ValidationSplit(3, 0)(grouped("aabb"))


def test_groups_of_a_data_module(tmp_path: Path) -> None:
    write_mvtec_tree(tmp_path, ["nut"], train=4)
    data = FolderDataModule(tmp_path, TRANSFORM, group=r"(\d\d[01])?\.png")
    assert len({sample.group for sample in data.split("nut")[0]}) == 3
    assert {sample.group for sample in data.samples("test", "nut")} == {None}
    with pytest.raises(UserError, match=r"dataset\.group=day does not match the training image nut/train/good/000"):
        FolderDataModule(tmp_path, TRANSFORM, group="day").setup()
    with pytest.raises(UserError, match=r"puts all 4 training images of nut into one group, \.png"):
        FolderDataModule(tmp_path, TRANSFORM, group=r"\.png").setup()
    with pytest.raises(UserError, match=r"Set dataset\.parts\.NAME\.group of each"):
        MixedDataModule({"a": data}, TRANSFORM, group="day")


def test_folders_of_groups_are_read(tmp_path: Path) -> None:
    write_mvtec_tree(tmp_path, ["nut"], train=4)
    good = tmp_path / "nut/train/good"
    for i, shift in enumerate(["early", "early", "late", "late"]):
        (good / shift).mkdir(exist_ok=True)
        (good / f"{i:03}.png").rename(good / shift / f"{i:03}.png")
    data = FolderDataModule(tmp_path, TRANSFORM, group=1)
    assert [sample.group for sample in data.split("nut")[0]] == ["early", "early", "late", "late"]
    assert not list(data.layout_findings())
    flat: ImageDataModule = FolderDataModule(tmp_path, TRANSFORM)
    with pytest.raises(UserError, match="nut has no train images"):
        flat.setup()
