"""Lightning data modules: one base class, and a subclass per data set."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import lightning as L

from moleflow.data.dataset import ImageLoader, image_loader
from moleflow.data.findings import Finding
from moleflow.data.groups import ImageGroups
from moleflow.data.image_io import read_mask
from moleflow.data.layouts.base import CategoryScan, Layout
from moleflow.data.layouts.checks import checked_samples, layout_findings
from moleflow.data.layouts.detection import layout_of
from moleflow.data.layouts.mvtec import MVTecLayout
from moleflow.data.layouts.names import LayoutNames
from moleflow.data.layouts.real_iad import DEFAULT_SPLIT, VIEWS, RealIADLayout
from moleflow.data.mask_coverage import CoverageLoss, MaskCoverage, coverage_loss, mask_coverage
from moleflow.data.root import required_root
from moleflow.data.samples import SPLITS, Sample, Split, nfc
from moleflow.data.saturation import read_regions
from moleflow.data.splits import Shots, ValidationSplit, split_training_images
from moleflow.data.synthetic.dataset import CATEGORIES, write_synthetic_dataset
from moleflow.data.tasks import ORDERS
from moleflow.data.transforms import ImageTransform, Transform
from moleflow.utils.errors import UserError, check_choice, check_range
from moleflow.utils.text import has_control_characters

MASKS = ("cropped", "full")


class ImageDataModule(L.LightningDataModule):
    """Images of several categories, with loaders for feature extraction and for Lightning trainers.

    `setup` indexes and checks the images. moleflow extracts features once, through `loader`; the other loaders are for
    a `Trainer` of your own. There is a ``val_dataloader`` only with a validation split.

    Args:
        root: Folder of the data set.
        transform: Transform of all images and masks.
        categories: Categories in the order of the continual sequence; or the name of one of `ORDERS`, or of one
            category. By default the default order of the data set, else every category of the root alphabetically.
        batch_size: Images per batch; the last batch may be smaller.
        num_workers: Processes that decode images; 0 decodes in this process.
        masks: ``cropped`` to measure defects on the transformed masks, ``full`` to measure them on every pixel of the
            mask files. The loaders yield transformed masks in both cases.
        validation: Training images per category that are excluded from training and used as a validation set: a share
            below 1, or a number.
        seed: The run's seed, on which the validation split depends.
        normal_dir: Folder of the normal images in ``train`` and ``test``, in the layout of MVTec AD.
        mask_dir: Folder of the masks in a category.
        mask_suffix: Suffix of the name of a mask after the name of its image; other usual names are read as well.
        test_dir: Folder of the test images in a category.
        shots: Training images per category, chosen by seed and category among those that are no validation images;
            None: all.
        group: Groups of training images from one source, such as a photograph: a regular expression or a number of
            folders, see :class:`~moleflow.data.groups.ImageGroups`; None: every image is a group. Images of one group
            are never split between training and validation images.

    Attributes:
        names: Names of the layout.
        validation_split: The split of a category's training images.

    Raises:
        UserError: If root is None, categories is empty or has a category twice, or another value is not allowed.
    """

    default_order: ClassVar[tuple[str, ...]] = ()

    def __init__(
        self,
        root: str | Path | None,
        transform: ImageTransform,
        categories: Sequence[str] | None = None,
        batch_size: int = 32,
        num_workers: int = 0,
        masks: str = "cropped",
        validation: float = 0,
        seed: int = 0,
        normal_dir: str = "good",
        mask_dir: str = "ground_truth",
        mask_suffix: str = "_mask",
        test_dir: str = "test",
        shots: int | None = None,
        group: str | int | None = None,
    ) -> None:
        super().__init__()
        self.root = required_root(root)
        if isinstance(categories, str):
            categories = ORDERS.get(categories, (categories,))
        self._requested = None if categories is None else tuple(nfc(str(category)) for category in categories)
        if self._requested is not None and (not self._requested or len(set(self._requested)) < len(self._requested)):
            raise UserError(
                f"dataset.categories={list(self._requested)} must contain at least one category, and each only once."
            )
        check_range("batch_size", batch_size, 1)
        check_range("num_workers", num_workers, 0, hint="With 0, this process decodes the images.")
        self.group = None if group is None else ImageGroups(group)
        level = 0 if self.group is None else self.group.folder_level
        self.names = LayoutNames(normal_dir, mask_dir, mask_suffix, test_dir, level)
        self.transform = transform
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.masks = check_choice("masks", masks, MASKS)
        self.validation_split = ValidationSplit(validation, seed)
        self.shots = None if shots is None else Shots(shots, seed)
        self._mask_coverage: dict[Sample, MaskCoverage] = {}
        if validation:  # Lightning requires validation images if the class has this method
            self.val_dataloader = self._validation_dataloader  # type: ignore[method-assign]

    def __repr__(self) -> str:
        """Return class, root and requested categories, without reading the root."""
        return f"{type(self).__name__}(root={str(self.root)!r}, categories={self._requested or self.default_order})"

    @property
    def full_masks(self) -> bool:
        """Whether defects are measured on every pixel of the mask files, not on the transformed masks."""
        return self.masks == "full"

    @cached_property
    def layout(self) -> Layout:
        """The layout of the root.

        Raises:
            UserError: If the root does not exist.
        """
        return layout_of(self.root, self.names)

    @cached_property
    def categories(self) -> tuple[str, ...]:
        """The categories in the order of the continual sequence.

        Raises:
            UserError: If no categories were requested and the root does not exist or has none, or a name has control
                characters.
        """
        categories = self._requested or self.default_order or self.layout.categories()
        if not categories:
            raise UserError(f"dataset.root={self.root} {self.layout.no_category_message()}")
        for category in categories:
            if has_control_characters(category):
                raise UserError(f"The name of the category {category!r} has control characters. Rename its folder.")
        return categories

    def setup(self, stage: str | None = None) -> None:
        """Index the images and check their files, once for all stages.

        Only folders and image headers are read.

        Args:
            stage: Ignored.

        Raises:
            UserError: If images or masks are missing or do not match (see `checked_samples`), there are fewer
                training images than validation images or shots, or the training images of a category are one group.
        """
        _ = self._splits

    def scan(self, category: str) -> CategoryScan:
        """Return the files of one category, and the metrics that its data set defines.

        Raises:
            UserError: If the category does not exist.
        """
        return self._scans[self.categories.index(category)]

    def samples(self, split: Split, category: str) -> list[Sample]:
        """Return the samples of one category and split, normal ones first; with shots, without unused ones."""
        samples = self._samples_by[split, category]
        if split == "test" or self.shots is None:
            return samples
        training, validation = self._splits[category]
        used = {*training, *validation}
        return [sample for sample in samples if sample in used]

    def split(self, category: str) -> tuple[list[Sample], list[Sample]]:
        """Return the training and validation images of a category.

        Raises:
            UserError: If the validation split leaves no training image.
        """
        return self._splits[category]

    def split_by(
        self, category: str, validation: float, shots: int | None, seed: int
    ) -> tuple[list[Sample], list[Sample]]:
        """Return the training and validation images of a category under the configuration of another run.

        Args:
            category: The category.
            validation: Validation images per category.
            shots: Training images per category; None: all.
            seed: The run's seed.

        Raises:
            UserError: If there are fewer training images than validation images or shots.
        """
        few = None if shots is None else Shots(shots, seed)
        return split_training_images(self._samples_by["train", category], ValidationSplit(validation, seed), few)

    def layout_findings(self) -> Iterator[Finding]:
        """Yield the problems of the layout, such as files that are not used.

        Files outside the categories are included if all categories of the root are used.
        """
        every = self._requested is None and not self.default_order
        yield from layout_findings(self._scans, self.layout if every else None, self.categories)

    def file_name(self, path: Path) -> str:
        """Return the name of a file, which stays the same if the data set moves: the path relative to the root."""
        return Path(os.path.relpath(path, self.root)).as_posix()

    def dataset_of(self, category: str) -> str | None:
        """Return the name of the data set of a category in a mixed stream; None for a single data set."""
        return None

    def has_masks(self, category: str) -> bool:
        """Whether the category has masks, so that pixel metrics are defined."""
        return any(sample.mask for sample in self.samples("test", category))

    def mask_coverage(self, sample: Sample) -> MaskCoverage:
        """Return the defect pixels of a sample before and after the transform; all 0 without a mask.

        Each mask is read once.

        Raises:
            ImageError: If the mask cannot be read.
        """
        if sample not in self._mask_coverage:
            if sample.mask is None:
                self._mask_coverage[sample] = MaskCoverage(0, 0, 0)
            else:
                if saturation := self.scan(sample.category).saturation:
                    read_regions(sample.mask, saturation)  # checks the values of the mask
                self._mask_coverage[sample] = mask_coverage(read_mask(sample.mask), self.transform)
        return self._mask_coverage[sample]

    def coverage_loss(self, category: str | None = None) -> CoverageLoss:
        """Return the defect pixels that the transform removes.

        Args:
            category: One category; by default all.

        Raises:
            ImageError: If a mask cannot be read.
        """
        categories = self.categories if category is None else (category,)
        return coverage_loss(self.mask_coverage(s) for name in categories for s in self.samples("test", name))

    def loader(
        self,
        samples: Sequence[Sample] | Sequence[Path],
        masks: bool = False,
        transform: Transform | None = None,
        batch_size: int | None = None,
    ) -> ImageLoader:
        """Return a loader over some images, in their order.

        Args:
            samples: The images; may be empty. The ``index`` of a batch refers to these.
            masks: Whether to read the masks.
            transform: By default that of the data module.
            batch_size: By default that of the data module.
        """
        return image_loader(
            samples,
            self.transform if transform is None else transform,
            masks,
            self.batch_size if batch_size is None else batch_size,
            self.num_workers,
        )

    def train_dataloader(self) -> ImageLoader:
        """Return a shuffled loader over all training images, without masks and without the validation images."""
        samples = [sample for category in self.categories for sample in self.split(category)[0]]
        return image_loader(
            samples, self.transform, batch_size=self.batch_size, num_workers=self.num_workers, shuffle=True
        )

    def _validation_dataloader(self) -> ImageLoader:
        """Return a loader over all validation images, without masks, category after category."""
        return self.loader([sample for category in self.categories for sample in self.split(category)[1]])

    def test_dataloader(self) -> ImageLoader:
        """Return a loader over all test images with their masks, category after category."""
        return self.loader(self._test_samples(), masks=True)

    def predict_dataloader(self) -> ImageLoader:
        """Return a loader over all test images without their masks, category after category."""
        return self.loader(self._test_samples())

    def _test_samples(self) -> list[Sample]:
        return [sample for category in self.categories for sample in self.samples("test", category)]

    @cached_property
    def _scans(self) -> tuple[CategoryScan, ...]:
        return tuple(self._grouped(scan) for scan in self.layout.scans(self.categories))

    def _grouped(self, scan: CategoryScan) -> CategoryScan:
        """Return the files of a category with the groups of its training images.

        Raises:
            UserError: If an image has no group, or the layout has no folders of groups.
        """
        if self.group is None:
            return scan
        if self.group.folder_level and not isinstance(self.layout, MVTecLayout):
            raise UserError(
                f"dataset.group={self.group.rule}: folders of groups exist in the layout of MVTec AD only. Give a "
                "regular expression for the paths of the images."
            )
        samples = (
            replace(sample, group=self.group(self.file_name(sample.path))) if sample.split == "train" else sample
            for sample in scan.samples
        )
        return replace(scan, samples=tuple(samples))

    @cached_property
    def _samples_by(self) -> dict[tuple[Split, str], list[Sample]]:
        """All samples by split and category."""
        samples: dict[tuple[Split, str], list[Sample]] = {
            (split, category): [] for split in SPLITS for category in self.categories
        }
        for sample in checked_samples(self._scans):
            samples[sample.split, sample.category].append(sample)
        return samples

    @cached_property
    def _splits(self) -> dict[str, tuple[list[Sample], list[Sample]]]:
        """Training and validation images by category.

        Raises:
            UserError: If the training images of a category are one group: none can be left out.
        """
        splits = {
            category: split_training_images(self._samples_by["train", category], self.validation_split, self.shots)
            for category in self.categories
        }
        for category, (training, _) in splits.items():
            groups = {sample.group for sample in training}
            if len(groups) == 1 and groups != {None}:
                raise UserError(
                    f"dataset.group puts all {len(training)} training images of {category} into one group, "
                    f"{groups.pop()}: none can be scored without those of its group. Correct the rule, or add images "
                    "of other groups."
                )
        return splits


class FolderDataModule(ImageDataModule):
    """Any data set in the folder layout of MVTec AD, with or without masks; by default all categories."""


class MVTecDataModule(ImageDataModule):
    """MVTec AD (Bergmann et al., CVPR 2019): 15 categories."""

    default_order = ORDERS["mvtec"]


class MPDDDataModule(ImageDataModule):
    """MPDD (Jezek et al., ICUMT 2021): 6 categories of metal parts in the folder layout of MVTec AD."""

    default_order = ORDERS["mpdd"]


class VisADataModule(ImageDataModule):
    """VisA (Zou et al., ECCV 2022): 12 categories, as released or converted to the folder layout of MVTec AD."""

    default_order = ORDERS["visa"]


class MVTecLOCODataModule(ImageDataModule):
    """MVTec LOCO AD (Bergmann et al., IJCV 2022): 5 categories with logical and structural anomalies."""

    default_order = ORDERS["mvtec_loco"]


class MVTecAD2DataModule(ImageDataModule):
    """MVTec AD 2 (Heckler-Kram et al., arXiv:2503.21622): 8 categories, tested on the public test images."""

    default_order = ORDERS["mvtec_ad2"]


class BTADDataModule(ImageDataModule):
    """BTAD (Mishra et al., ISIE 2021): 3 categories."""

    default_order = ORDERS["btad"]


class KolektorSDD2DataModule(ImageDataModule):
    """KolektorSDD2 (Bozic et al., Computers in Industry 2021): 1 category."""

    default_order = ORDERS["kolektor_sdd2"]


class RealIADDataModule(ImageDataModule):
    """Real-IAD (Wang et al., CVPR 2024): 30 categories, five views per object.

    Args:
        root: Folder of the data set.
        transform: Transform of all images and masks.
        split_dir: Folder of the JSON files, such as ``realiad_jsons`` or ``realiad_jsons_sv``.
        image_dir: Folder of the images; None: the one with the largest images.
        views: Views that are used, of 1 to 5.
        arguments: Further arguments of `ImageDataModule`.
    """

    default_order = ORDERS["real_iad"]

    def __init__(
        self,
        root: str | Path | None,
        transform: ImageTransform,
        split_dir: str = DEFAULT_SPLIT,
        image_dir: str | None = None,
        views: Sequence[int] = VIEWS,
        **arguments: Any,
    ) -> None:
        super().__init__(root, transform, **arguments)
        self._split_dir = split_dir
        self._image_dir = image_dir
        self._views = tuple(views)

    @cached_property
    def layout(self) -> Layout:
        """The layout of the root.

        Raises:
            UserError: If the root or a folder of it does not exist, or a view is not allowed.
        """
        if not self.root.is_dir():
            return super().layout  # raises
        return RealIADLayout(self.root, self.names, self._split_dir, self._image_dir, self._views)


class SyntheticDataModule(ImageDataModule):
    """The synthetic data set, which `prepare_data` writes below the root if it is not there yet.

    Args:
        root: Folder of the data set; created if missing.
        transform: Transform of all images and masks.
        drawing_seed: Seed of the images; not the run's seed, so that runs with different seeds have the same images.
        size: Side of an image in pixels, at least 32.
        train: Training images per category.
        test_good: Normal test images per category.
        test_defect: Test images with a defect per category.
        arguments: Further arguments of `ImageDataModule`.
    """

    default_order = CATEGORIES

    def __init__(
        self,
        root: str | Path | None,
        transform: ImageTransform,
        drawing_seed: int = 0,
        size: int = 256,
        train: int = 24,
        test_good: int = 8,
        test_defect: int = 12,
        **arguments: Any,
    ) -> None:
        super().__init__(root, transform, **arguments)
        self._settings = {
            "seed": drawing_seed,
            "size": size,
            "train": train,
            "test_good": test_good,
            "test_defect": test_defect,
        }

    def prepare_data(self) -> None:
        """Write the images if they are not there.

        Raises:
            UserError: If the root has other files.
        """
        write_synthetic_dataset(self.root, **self._settings)
