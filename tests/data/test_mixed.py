"""The data module of several data sets."""

from pathlib import Path

import pytest

from helpers.dataset_trees import TREES
from helpers.trees import write_mvtec_tree
from moleflow.data.datamodule import FolderDataModule, MVTecLOCODataModule
from moleflow.data.fingerprint import data_fingerprint
from moleflow.data.mixed import MixedDataModule
from moleflow.data.transforms import ImageTransform
from moleflow.utils.errors import UserError

TRANSFORM = ImageTransform(32)


@pytest.fixture
def parts(tmp_path: Path) -> dict[str, FolderDataModule]:
    """Return two data sets that share the category nut."""
    write_mvtec_tree(tmp_path / "a", ["bolt", "nut"], (16, 16))
    write_mvtec_tree(tmp_path / "b", ["cap", "nut"], (16, 16), masks=False)
    return {name: FolderDataModule(tmp_path / name, TRANSFORM) for name in ("a", "b")}


def test_only_equal_names_get_a_prefix(parts: dict[str, FolderDataModule]) -> None:
    data = MixedDataModule(parts, TRANSFORM)
    data.setup()
    assert data.categories == ("bolt", "a_nut", "cap", "b_nut")
    assert [data.dataset_of(category) for category in data.categories] == ["a", "a", "b", "b"]
    assert [data.has_masks(category) for category in data.categories] == [True, True, False, False]
    samples = data.samples("train", "b_nut")
    assert {sample.category for sample in samples} == {"b_nut"}
    assert samples[0].path == parts["b"].root / "nut/train/good/000.png"
    assert next(iter(data_fingerprint(data)["b_nut"]["train"])) == "b/nut/train/good/000.png"
    assert data.scan("b_nut").category == "b_nut"


def test_categories_are_selected_from_all_data_sets(parts: dict[str, FolderDataModule]) -> None:
    data = MixedDataModule(parts, TRANSFORM, categories=["b_nut", "bolt"], shots=2)
    data.setup()
    assert data.categories == ("b_nut", "bolt")
    assert [len(data.samples("train", category)) for category in data.categories] == [2, 2]
    with pytest.raises(UserError, match=r"has 'nut', which is in no data set.*Choose from: bolt, a_nut, cap, b_nut"):
        MixedDataModule(parts, TRANSFORM, categories=["nut"]).setup()


def test_metrics_of_a_data_set_belong_to_its_categories(parts: dict[str, FolderDataModule], tmp_path: Path) -> None:
    loco = MVTecLOCODataModule(TREES["mvtec_loco"].write(tmp_path / "loco", ["pushpins"]), TRANSFORM, ["pushpins"])
    data = MixedDataModule({"a": parts["a"], "loco": loco}, TRANSFORM)
    data.setup()
    assert [bool(data.scan(category).saturation) for category in data.categories] == [False, False, True]


def test_invalid_parts_raise(parts: dict[str, FolderDataModule]) -> None:
    with pytest.raises(UserError, match=r"dataset=mixed needs data sets\. Write dataset=\[mvtec,visa\]"):
        MixedDataModule({}, TRANSFORM)
    few = FolderDataModule(parts["a"].root, TRANSFORM, shots=2)
    with pytest.raises(UserError, match=r"dataset\.parts\.a\.shots cannot be set\. Set dataset\.shots"):
        MixedDataModule({"a": few}, TRANSFORM)


def test_errors_name_the_key_of_the_data_set(parts: dict[str, FolderDataModule], tmp_path: Path) -> None:
    missing = FolderDataModule(tmp_path / "nowhere", TRANSFORM)
    with pytest.raises(
        UserError, match=r"dataset\.parts\.b\.root=.*nowhere must be a folder\. Set dataset\.parts\.b\.root"
    ):
        MixedDataModule({"a": parts["a"], "b": missing}, TRANSFORM).setup()
