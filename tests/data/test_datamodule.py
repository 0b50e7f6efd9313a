"""The data modules: categories, samples, splits, loaders and masks, also under a real Lightning trainer."""

from collections import Counter
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch import Tensor

from helpers.trees import write_mvtec_tree, write_visa_tree
from moleflow.data.datamodule import (
    FolderDataModule,
    ImageDataModule,
    MPDDDataModule,
    MVTecDataModule,
    SyntheticDataModule,
    VisADataModule,
)
from moleflow.data.image_io import ImageError
from moleflow.data.mask_coverage import MaskCoverage
from moleflow.data.samples import Sample
from moleflow.data.splits import ValidationSplit
from moleflow.data.tasks import ORDERS
from moleflow.data.transforms import FlippedTransform, ImageTransform
from moleflow.utils.errors import UserError

REAL = Path(__file__).parents[3] / "shared" / "data" / "realad_mini"
TRANSFORM = ImageTransform(32)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_mvtec_tree(tmp_path, ["nut", "bolt"], size=(40, 56))
    write_mvtec_tree(tmp_path, ["cap"], masks=False)
    return tmp_path


def test_folder_has_all_its_categories(folder: Path) -> None:
    data = FolderDataModule(folder, TRANSFORM, batch_size=4)
    data.prepare_data()
    data.setup("fit")
    assert data.categories == ("bolt", "cap", "nut")
    assert [data.has_masks(category) for category in data.categories] == [True, False, True]
    assert [len(data.samples("test", category)) for category in data.categories] == [6, 6, 6]


@pytest.mark.parametrize(
    ("module", "order"), [(MVTecDataModule, "mvtec"), (VisADataModule, "visa"), (MPDDDataModule, "mpdd")]
)
def test_default_order_requires_all_its_categories(tmp_path: Path, module: type[ImageDataModule], order: str) -> None:
    subset = ORDERS[order][1:3]
    write_mvtec_tree(tmp_path, subset, train=1, good=1, defect=1)
    data = module(tmp_path, TRANSFORM)
    assert data.categories == ORDERS[order]
    with pytest.raises(UserError, match=f"no category '{ORDERS[order][0]}'"):
        data.setup()
    data = module(tmp_path, TRANSFORM, subset[::-1])
    data.setup()
    assert data.categories == subset[::-1]
    assert len(data.samples("train", subset[0])) == 1


def test_visa_release(tmp_path: Path) -> None:
    data = VisADataModule(write_visa_tree(tmp_path), TRANSFORM, ["pcb1", "candle"])
    (batch,) = data.test_dataloader()
    assert int(batch["label"].sum()) == 6
    assert batch["mask"].any(dim=(1, 2)).sum() == 6


def test_categories_as_a_string_are_an_order_or_one_category(tmp_path: Path) -> None:
    assert MVTecDataModule(tmp_path, TRANSFORM, "hard_first").categories == ORDERS["hard_first"]
    assert MVTecDataModule(tmp_path, TRANSFORM, "bottle").categories == ("bottle",)


def test_categories_are_in_the_composed_form(tmp_path: Path) -> None:
    (write_mvtec_tree(tmp_path, ["nut"]) / "nut").rename(tmp_path / "Pru\u0308fling")
    for data in (FolderDataModule(tmp_path, TRANSFORM, ["Pr\u00fcfling"]), FolderDataModule(tmp_path, TRANSFORM)):
        assert data.categories == ("Pr\u00fcfling",)
        assert len(data.samples("train", "Pr\u00fcfling")) == 6


@pytest.mark.parametrize("module", [FolderDataModule, MVTecDataModule])
def test_names_of_folders_and_masks(folder: Path, module: type[ImageDataModule]) -> None:
    for split in ("train", "test"):
        (folder / "nut" / split / "good").rename(folder / "nut" / split / "ok")
    (folder / "nut/ground_truth").rename(folder / "nut/masks")
    data = module(folder, TRANSFORM, ["nut"], normal_dir="ok", mask_dir="masks", mask_suffix="_roi")
    assert [len(data.samples(split, "nut")) for split in ("train", "test")] == [6, 6]
    assert data.has_masks("nut")
    assert list(data.layout_findings()) == []
    with pytest.raises(UserError, match=r"dataset\.normal_dir=ok"):
        module(folder, TRANSFORM, ["nut"]).setup()
    with pytest.raises(UserError, match=r"dataset\.mask_dir=a/b must be"):
        module(folder, TRANSFORM, ["nut"], mask_dir="a/b")


def test_files_outside_categories_are_findings_if_all_categories_are_used(folder: Path) -> None:
    (folder / "stray").mkdir()
    (folder / "nut/train/good/000.png").rename(folder / "stray/000.png")
    assert list(FolderDataModule(folder, TRANSFORM, ["nut"]).layout_findings()) == []
    (finding,) = FolderDataModule(folder, TRANSFORM).layout_findings()
    assert finding.message.endswith(
        "stray is no category, because it has no folder train. Add train/good, or remove the folder."
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"root": None}, r"dataset\.root=null .*Set dataset\.root=/path"),
        ({"categories": []}, r"dataset\.categories=\[\] must contain at least one"),
        ({"categories": ["a", "b", "a"]}, "each only once"),
        ({"masks": "seen"}, "masks=seen is unknown.*cropped, full"),
        ({"batch_size": 0}, "batch_size=0 must be at least 1"),
        ({"num_workers": -1}, "num_workers=-1 must be at least 0"),
        ({"validation": 1.5}, "validation=1.5 must"),
    ],
)
def test_invalid_argument_raises(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        FolderDataModule(**{"root": ".", "transform": TRANSFORM, **arguments})


def test_root_without_categories_raises(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no category"):
        FolderDataModule(tmp_path, TRANSFORM).setup()


def test_synthetic_data_set_is_written_on_prepare(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"size": 48, "train": 2, "test_good": 1, "test_defect": 4}
    data = SyntheticDataModule(tmp_path / "synthetic", TRANSFORM, seed=5, **settings)
    data.prepare_data()
    data.setup()
    assert data.categories == ("fabric", "wood", "gear", "biscuit")
    assert all(data.has_masks(category) for category in data.categories)
    assert [len(data.samples(split, "gear")) for split in ("train", "test")] == [2, 5]
    SyntheticDataModule(tmp_path / "synthetic", TRANSFORM, seed=6, **settings).prepare_data()  # the same images
    with pytest.raises(UserError, match="other settings"):
        SyntheticDataModule(tmp_path / "synthetic", TRANSFORM, drawing_seed=1, **settings).prepare_data()


def test_loader_has_the_settings_of_the_data_module_or_its_own(folder: Path) -> None:
    data = FolderDataModule(folder, TRANSFORM, ["nut"], batch_size=4, num_workers=1)
    samples = data.samples("test", "nut")
    loader = data.loader(samples)
    assert (loader.batch_size, loader.num_workers, loader.dataset.transform) == (4, 1, TRANSFORM)
    assert [len(batch["index"]) for batch in loader] == [4, 2]
    flipped = FlippedTransform(TRANSFORM, "rotate_90")
    loader = data.loader(samples, masks=True, transform=flipped, batch_size=3)
    assert (loader.batch_size, loader.dataset.transform) == (3, flipped)
    assert all(batch["mask"].any() for batch in list(loader)[1:])
    assert list(data.loader([])) == []


def test_split_is_that_of_seed_and_category(folder: Path) -> None:
    data = FolderDataModule(folder, TRANSFORM, ["nut", "bolt"], validation=2, seed=3)
    for category in data.categories:
        samples = data.samples("train", category)
        assert data.split(category) == ValidationSplit(2, 3)(samples)
        assert len(data.split(category)[1]) == 2
    assert FolderDataModule(folder, TRANSFORM, ["nut"]).split("nut")[1] == []


def images_of(loader: Any) -> list[Sample]:
    return [loader.dataset.images[index] for batch in loader for index in batch["index"].tolist()]


def test_dataloaders_cover_the_data_set(folder: Path) -> None:
    data = FolderDataModule(folder, TRANSFORM, ["nut", "cap"], batch_size=5, validation=0.4)
    train, validation = images_of(data.train_dataloader()), images_of(data.val_dataloader())
    assert (len(train), len(validation)) == (8, 4)
    assert Counter(train + validation) == Counter(data.samples("train", "nut") + data.samples("train", "cap"))
    tests = data.samples("test", "nut") + data.samples("test", "cap")
    assert images_of(data.test_dataloader()) == images_of(data.predict_dataloader()) == tests
    masks = torch.cat([batch["mask"].any(dim=(1, 2)) for batch in data.test_dataloader()])
    assert masks.tolist() == [sample.mask is not None for sample in tests]
    assert not any(batch["mask"].any() for batch in data.predict_dataloader())


def test_training_images_are_shuffled(folder: Path) -> None:
    data = FolderDataModule(folder, TRANSFORM, ["nut", "cap"])
    loader = data.train_dataloader()
    torch.manual_seed(0)
    first, second = images_of(loader), images_of(loader)
    assert first != second
    torch.manual_seed(0)
    assert images_of(data.train_dataloader()) == first


def test_without_validation_images_there_is_no_loader(folder: Path) -> None:
    data = FolderDataModule(folder, TRANSFORM, ["nut"])
    with pytest.raises(MisconfigurationException):
        data.val_dataloader()
    assert len(images_of(data.train_dataloader())) == 6


@pytest.mark.parametrize(("masks", "full"), [("cropped", False), ("full", True)])
def test_masks_are_cropped_or_full(folder: Path, masks: str, full: bool) -> None:
    assert FolderDataModule(folder, TRANSFORM, masks=masks).full_masks is full


def test_mask_coverage_is_computed_once_per_sample(folder: Path) -> None:
    data = FolderDataModule(folder, TRANSFORM, ["nut"])
    normal, defective = data.samples("test", "nut")[0], data.samples("test", "nut")[-1]
    assert data.mask_coverage(normal) == MaskCoverage(0, 0, 0)
    coverage = data.mask_coverage(defective)
    assert coverage.pixels >= coverage.visible > 0
    assert coverage.transformed > 0
    assert defective.mask is not None
    defective.mask.unlink()
    assert data.mask_coverage(defective) == coverage


def test_coverage_loss_of_one_category_and_of_all(folder: Path) -> None:
    data = FolderDataModule(folder, TRANSFORM)
    assert data.coverage_loss("cap") == (0, 0, 0.0)
    one, total = data.coverage_loss("nut"), data.coverage_loss()
    assert (one.masks, total.masks) == (3, 6)
    assert 0 < total.pixels < 0.5


lightning_warnings = pytest.mark.filterwarnings(
    "ignore:.*does not have many workers:UserWarning",
    "ignore:.*treespec, LeafSpec:FutureWarning",  # from a call in Lightning 2.6
)


class MeanColor(L.LightningModule):
    """A classifier of the mean color, which records the images of each stage."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(3, 1)
        self.indices: dict[str, list[int]] = {}

    def forward(self, images: Tensor) -> Tensor:
        scores: Tensor = self.layer(images.mean((-2, -1))).squeeze(-1)
        return scores

    def _step(self, stage: str, batch: Any) -> Tensor:
        self.indices.setdefault(stage, []).extend(batch["index"].tolist())
        return torch.nn.functional.binary_cross_entropy_with_logits(self(batch["image"]), batch["label"].float())

    def training_step(self, batch: Any) -> Tensor:
        return self._step("train", batch)

    def validation_step(self, batch: Any) -> None:
        self._step("validation", batch)

    def test_step(self, batch: Any) -> None:
        self._step("test", batch)
        assert batch["mask"].any() == batch["label"].any()

    def predict_step(self, batch: Any) -> Tensor:
        self._step("predict", batch)
        scores: Tensor = self(batch["image"])
        return scores

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def trainer(folder: Path) -> L.Trainer:
    return L.Trainer(
        accelerator="cpu",
        max_epochs=2,
        default_root_dir=folder,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        log_every_n_steps=1,
    )


@lightning_warnings
@pytest.mark.parametrize("num_workers", [0, 2])
def test_lightning_trainer_runs_all_stages(folder: Path, tmp_path: Path, num_workers: int) -> None:
    data = FolderDataModule(folder, TRANSFORM, ["nut", "bolt"], batch_size=4, num_workers=num_workers, validation=2)
    model = MeanColor()
    before = model.layer.weight.detach().clone()
    trainer(tmp_path).fit(model, datamodule=data)
    assert not torch.equal(model.layer.weight, before)
    epochs = model.indices["train"][:8], model.indices["train"][8:]
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(8))
    assert epochs[0] != epochs[1]
    assert model.indices["validation"] == [0, 1, 2, 3] * 2
    trainer(tmp_path).validate(model, datamodule=data, verbose=False)
    assert model.indices["validation"] == [0, 1, 2, 3] * 3
    trainer(tmp_path).test(model, datamodule=data, verbose=False)
    assert model.indices["test"] == list(range(12))
    predictions = trainer(tmp_path).predict(model, datamodule=data)
    assert predictions is not None
    assert [len(scores) for scores in predictions] == [4, 4, 4]
    assert model.indices["predict"] == list(range(12))


@lightning_warnings
def test_lightning_trainer_skips_validation_without_a_split(folder: Path, tmp_path: Path) -> None:
    model = MeanColor()
    with pytest.warns(UserWarning, match="no `val_dataloader`"):
        trainer(tmp_path).fit(model, datamodule=FolderDataModule(folder, TRANSFORM, ["nut"]))
    assert set(model.indices) == {"train"}
    assert len(model.indices["train"]) == 12


@lightning_warnings
@pytest.mark.parametrize("num_workers", [0, 1])
def test_unreadable_image_stops_a_lightning_trainer_with_its_error(
    folder: Path, tmp_path: Path, num_workers: int
) -> None:
    path = folder / "nut" / "train" / "good" / "003.png"
    path.write_bytes(path.read_bytes()[:200])
    data = FolderDataModule(folder, TRANSFORM, ["nut"], batch_size=2, num_workers=num_workers, validation=1)
    with pytest.raises(ImageError) as caught:
        trainer(tmp_path).fit(MeanColor(), datamodule=data)
    assert caught.value.path == path


@pytest.mark.skipif(not REAL.is_dir(), reason="requires ../shared/data/realad_mini")
def test_real_images() -> None:
    data = FolderDataModule(REAL, ImageTransform(64), ["screw", "solar_mono", "leather", "alien", "cookie"])
    data.setup()
    assert [data.has_masks(category) for category in data.categories] == [True, False, True, False, True]
    for category in data.categories:
        samples = data.samples("test", category)
        (batch,) = data.loader([samples[0], samples[-1]], masks=True)
        assert batch["image"].std() > 0.1
        assert batch["label"].tolist() == [0, 1]
        assert batch["mask"].any(dim=(1, 2)).tolist() == [False, data.has_masks(category)]
