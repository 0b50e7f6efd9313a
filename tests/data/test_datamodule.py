from pathlib import Path

import pytest
import torch

from helpers.trees import write_mvtec_tree, write_visa_tree
from moleflow.data import (
    ORDERS,
    DemoDataModule,
    FolderDataModule,
    MPDDDataModule,
    MVTecDataModule,
    PictureDataset,
    PictureTransform,
    VisADataModule,
    read_mask,
    read_picture,
)
from moleflow.errors import UserError

REAL = Path(__file__).parents[3] / "shared" / "data" / "realad_mini"
TRANSFORM = PictureTransform(32)


@pytest.fixture
def folder(tmp_path):
    write_mvtec_tree(tmp_path, ["nut", "bolt"], size=(40, 56))
    write_mvtec_tree(tmp_path, ["cap"], masks=False)
    return tmp_path


def test_folder_takes_what_is_there(folder):
    data = FolderDataModule(folder, TRANSFORM, batch_size=4)
    data.prepare_data()
    data.setup("fit")
    assert data.categories == ("bolt", "cap", "nut")
    assert [data.has_masks(category) for category in data.categories] == [True, False, True]
    assert [len(data.samples("test", category)) for category in data.categories] == [6, 6, 6]


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_point_to_their_samples(folder, workers):
    data = FolderDataModule(folder, TRANSFORM, ["nut", "cap"], batch_size=5, num_workers=workers)
    data.setup()
    loader = data.test_dataloader()
    expected = [sample for category in ("nut", "cap") for sample in data.samples("test", category)]
    seen = []
    for batch in loader:
        size = len(batch["index"])
        assert batch["image"].shape == (size, 3, 32, 32)
        assert batch["image"].dtype == torch.float32
        assert batch["mask"].shape == (size, 32, 32)
        assert batch["mask"].dtype == torch.bool
        assert batch["label"].dtype == batch["index"].dtype == torch.int64
        for image, mask, label, index in zip(*(batch[k] for k in ("image", "mask", "label", "index")), strict=True):
            sample = loader.dataset.samples[index]
            seen.append(sample)
            assert label == sample.label
            assert torch.equal(image, TRANSFORM(read_picture(sample.path)))
            if sample.mask:
                assert torch.equal(mask, TRANSFORM.mask(read_mask(sample.mask)))
                assert mask.any()
            else:
                assert not mask.any()
    assert seen == expected


def test_training_and_prediction_read_no_mask(folder):
    data = FolderDataModule(folder, TRANSFORM, ["nut"])
    train, predict = list(data.train_dataloader()), list(data.predict_dataloader())
    assert [len(batches[0]["label"]) for batches in (train, predict)] == [6, 6]
    assert train[0]["label"].sum() == 0
    assert predict[0]["label"].sum() == 3
    assert not predict[0]["mask"].any()
    assert PictureDataset(data.samples("test", "nut"), TRANSFORM, masks=True)[5]["mask"].any()


@pytest.mark.parametrize("workers", [0, 1])
def test_an_unreadable_picture_is_one_plain_message(folder, workers):
    path = folder / "nut" / "train" / "good" / "003.png"
    path.write_bytes(path.read_bytes()[:200])
    data = FolderDataModule(folder, TRANSFORM, ["nut"], batch_size=2, num_workers=workers)
    data.setup()
    with pytest.raises(UserError) as caught:
        list(data.train_dataloader())
    assert str(caught.value).startswith(str(path))
    assert "Replace the file" in str(caught.value)
    assert "Traceback" not in str(caught.value)
    with pytest.raises(UserError, match="Replace the file"):
        PictureDataset(data.samples("train", "nut"), TRANSFORM, masks=False)[3]


@pytest.mark.parametrize(
    ("module", "order"), [(MVTecDataModule, "mvtec"), (VisADataModule, "visa"), (MPDDDataModule, "mpdd")]
)
def test_default_orders_want_every_category_and_subsets_do_not(tmp_path, module, order):
    some = ORDERS[order][1:3]
    write_mvtec_tree(tmp_path, some, train=1, good=1, defect=1)
    data = module(tmp_path, TRANSFORM)
    assert data.categories == ORDERS[order]
    with pytest.raises(UserError, match=f"no category '{ORDERS[order][0]}'"):
        data.setup()
    data = module(tmp_path, TRANSFORM, some[::-1])
    data.setup()
    assert data.categories == some[::-1]
    assert len(data.samples("train", some[0])) == 1


def test_visa_release_is_noticed(tmp_path):
    data = VisADataModule(write_visa_tree(tmp_path), TRANSFORM, ["pcb1", "candle"])
    batches = list(data.test_dataloader())
    assert [int(batch["label"].sum()) for batch in batches] == [6]
    assert batches[0]["mask"].any(dim=(1, 2)).sum() == 6


def test_a_string_names_an_order_or_one_category(tmp_path):
    assert MVTecDataModule(tmp_path, TRANSFORM, "hard_first").categories == ORDERS["hard_first"]
    assert MVTecDataModule(tmp_path, TRANSFORM, "bottle").categories == ("bottle",)


@pytest.mark.parametrize(
    ("root", "categories", "message"),
    [
        (None, None, r"set dataset\.root=/path"),
        (".", [], "name at least one"),
        (".", ["a", "b", "a"], "each only once"),
    ],
)
def test_nonsense_is_told_at_once(root, categories, message):
    with pytest.raises(UserError, match=message):
        FolderDataModule(root, TRANSFORM, categories)


def test_an_empty_root_is_told(tmp_path):
    with pytest.raises(UserError, match="holds no category"):
        FolderDataModule(tmp_path, TRANSFORM).setup()


def test_demo_writes_itself(tmp_path):
    data = DemoDataModule(tmp_path / "demo", TRANSFORM, size=48, train=2, test_good=1, test_defect=4)
    data.prepare_data()
    data.setup()
    assert data.categories == ("fabric", "wood", "gear", "biscuit")
    assert all(data.has_masks(category) for category in data.categories)
    assert [len(data.samples(split, "gear")) for split in ("train", "test")] == [2, 5]


@pytest.mark.skipif(not REAL.is_dir(), reason="the real pictures are not beside the repository")
def test_real_pictures_become_tensors():
    data = FolderDataModule(REAL, PictureTransform(64), ["screw", "solar_mono", "leather", "alien", "cookie"])
    data.setup()
    assert [data.has_masks(category) for category in data.categories] == [True, False, True, False, True]
    for category in data.categories:
        samples = data.samples("test", category)
        (batch,) = data.loader([samples[0], samples[-1]], masks=True)
        assert batch["image"].std() > 0.1
        assert batch["label"].tolist() == [0, 1]
        assert batch["mask"].any(dim=(1, 2)).tolist() == [False, data.has_masks(category)]
