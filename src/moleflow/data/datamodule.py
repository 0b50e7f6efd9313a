"""The data modules: one class does the work, a subclass a layout says what differs."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import lightning as L

from moleflow.data import demo
from moleflow.data.dataset import PictureLoader, picture_loader
from moleflow.data.layouts import available_categories, mvtec_samples, visa_samples
from moleflow.data.marks import Lost, Marks, lost, marks
from moleflow.data.read import read_mask
from moleflow.data.sample import Sample, Split
from moleflow.data.scenario import ORDERS
from moleflow.data.transforms import PictureTransform
from moleflow.errors import UserError, choice

MASKS = ("seen", "native")


class PictureDataModule(L.LightningDataModule):
    """Pictures of several categories, indexed and checked by `setup`.

    The loaders keep the order of the samples: pictures become features once, and the order in which features are
    learned is drawn by the training, from its own generator.

    Args:
        root: Folder of the data set.
        transform: Makes tensors of one size.
        categories: Which categories, in the order in which they arrive; or the name of one of `ORDERS`, or of one
            category. By default the data set's own order, else every category of the root alphabetically.
        batch_size: Pictures a batch; the last batch may be smaller.
        num_workers: Processes that read pictures; 0 reads in this one.
        masks: Whether defects are measured as the model sees them (``seen``: masks go through the transform), or pixel
            by pixel of the files (``native``).

    Raises:
        UserError: If root is None, categories is empty or names one twice, or masks is unknown.
    """

    default_order: ClassVar[tuple[str, ...]] = ()

    def __init__(
        self,
        root: str | Path | None,
        transform: PictureTransform,
        categories: Sequence[str] | None = None,
        batch_size: int = 32,
        num_workers: int = 0,
        masks: str = "seen",
    ) -> None:
        super().__init__()
        self.native_masks = choice("masks", masks, MASKS) == "native"
        if root is None:
            raise UserError("The data set's folder is not set: set dataset.root=/path to the folder of its categories.")
        if isinstance(categories, str):
            categories = ORDERS.get(categories, (categories,))
        self.root = Path(root).expanduser()
        self.transform = transform
        self.batch_size = batch_size
        self.num_workers = num_workers
        self._marks: dict[Sample, Marks] = {}
        self._asked = None if categories is None else tuple(categories)
        if self._asked is not None and (not self._asked or len(set(self._asked)) < len(self._asked)):
            raise UserError(f"dataset.categories={list(self._asked)}: name at least one category, and each only once.")

    @cached_property
    def categories(self) -> tuple[str, ...]:
        """The categories in the order in which they arrive.

        Raises:
            UserError: If they have to be looked up, and the root does not exist or holds none.
        """
        found = self._asked or self.default_order or available_categories(self.root)
        if not found:
            raise UserError(
                f"dataset.root={self.root} holds no category. A category is a folder with pictures in train/good "
                "and test/good, test/<defect>; set dataset.root to the folder above it."
            )
        return found

    def setup(self, stage: str | None = None) -> None:
        """Index the samples and check them; cheap, and done once whatever the stage.

        Raises:
            UserError: If the data set is not as its layout has it; see `mvtec_samples`.
        """
        _ = self._samples

    def samples(self, split: Split, category: str) -> list[Sample]:
        """Return the samples of one category and split, normal ones first."""
        return [sample for sample in self._samples if (sample.split, sample.category) == (split, category)]

    def has_masks(self, category: str) -> bool:
        """Whether the category's defects are marked pixel by pixel, so that pixel metrics exist."""
        return any(sample.mask for sample in self.samples("test", category))

    def marks(self, sample: Sample) -> Marks:
        """Return what the transform leaves of a sample's mask, which is read once; nothing marked, nothing lost.

        Raises:
            UserError: If the mask cannot be read.
        """
        if sample not in self._marks:
            none = Marks(0, 0, 0)
            self._marks[sample] = none if sample.mask is None else marks(read_mask(sample.mask), self.transform)
        return self._marks[sample]

    def lost(self, category: str | None = None) -> Lost:
        """Return what the transform loses of the marked defects of a category, or of all."""
        tests = self._of("test") if category is None else self.samples("test", category)
        return lost(self.marks(sample) for sample in tests)

    def loader(self, samples: Sequence[Sample], masks: bool) -> PictureLoader:
        """Return a loader over some samples, in their order.

        Args:
            samples: What to load; a batch's ``index`` points into it.
            masks: Whether to read the masks.
        """
        return picture_loader(samples, self.transform, masks, self.batch_size, self.num_workers)

    def train_dataloader(self) -> PictureLoader:
        """Load every training picture, category after category, without masks."""
        return self.loader(self._of("train"), masks=False)

    def test_dataloader(self) -> PictureLoader:
        """Load every test picture with its mask, category after category."""
        return self.loader(self._of("test"), masks=True)

    def predict_dataloader(self) -> PictureLoader:
        """Load every test picture without reading its mask."""
        return self.loader(self._of("test"), masks=False)

    def _of(self, split: Split) -> list[Sample]:
        return [sample for sample in self._samples if sample.split == split]

    @cached_property
    def _samples(self) -> list[Sample]:
        return self._read(self.root, self.categories)

    def _read(self, root: Path, categories: Sequence[str]) -> list[Sample]:
        return mvtec_samples(root, categories)


class FolderDataModule(PictureDataModule):
    """Any root in the MVTec tree, with or without masks; by default all its categories, alphabetically."""


class MVTecDataModule(PictureDataModule):
    """MVTec AD (Bergmann et al., CVPR 2019): 15 categories."""

    default_order = ORDERS["mvtec"]


class MPDDDataModule(PictureDataModule):
    """MPDD (Jezek et al., ICUMT 2021): 6 categories of metal parts in the MVTec tree."""

    default_order = ORDERS["mpdd"]


class VisADataModule(PictureDataModule):
    """VisA (Zou et al., ECCV 2022): 12 categories, as released or converted to the MVTec tree."""

    default_order = ORDERS["visa"]

    def _read(self, root: Path, categories: Sequence[str]) -> list[Sample]:
        return visa_samples(root, categories)


class DemoDataModule(PictureDataModule):
    """Generated categories, written below the root when it does not hold them yet; see `write_demo`.

    Args:
        root: As `PictureDataModule`; the folder is made.
        transform: As `PictureDataModule`.
        categories: As `PictureDataModule`.
        batch_size: As `PictureDataModule`.
        num_workers: As `PictureDataModule`.
        masks: As `PictureDataModule`.
        seed: Which pictures are drawn; not the run's seed, so that runs that differ in seed share their data.
        size: Side of a picture in pixels.
        train: Training pictures a category.
        test_good: Normal test pictures a category.
        test_defect: Test pictures with a defect a category.
    """

    default_order = demo.CATEGORIES

    def __init__(
        self,
        root: str | Path | None,
        transform: PictureTransform,
        categories: Sequence[str] | None = None,
        batch_size: int = 32,
        num_workers: int = 0,
        masks: str = "seen",
        seed: int = 0,
        size: int = 256,
        train: int = 24,
        test_good: int = 8,
        test_defect: int = 12,
    ) -> None:
        super().__init__(root, transform, categories, batch_size, num_workers, masks)
        self._settings = {
            "seed": seed, "size": size, "train": train, "test_good": test_good, "test_defect": test_defect
        }  # fmt: skip

    def prepare_data(self) -> None:
        """Write the tree if it is not there.

        Raises:
            UserError: If something else lies at the root.
        """
        demo.write_demo(self.root, **self._settings)
