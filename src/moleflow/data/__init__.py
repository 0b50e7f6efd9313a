"""Pictures of categories, from the layouts of the public data sets to tensors and tasks."""

from moleflow.data.datamodule import (
    DemoDataModule,
    FolderDataModule,
    MPDDDataModule,
    MVTecDataModule,
    PictureDataModule,
    VisADataModule,
)
from moleflow.data.dataset import Picture, PictureDataset, PictureLoader, picture_loader
from moleflow.data.demo import write_demo
from moleflow.data.layouts import available_categories, mvtec_samples, visa_samples
from moleflow.data.read import read_mask, read_picture
from moleflow.data.sample import GOOD, Sample, Split
from moleflow.data.scenario import ORDERS, Task, cut
from moleflow.data.transforms import PictureTransform

__all__ = [
    "GOOD",
    "ORDERS",
    "DemoDataModule",
    "FolderDataModule",
    "MPDDDataModule",
    "MVTecDataModule",
    "Picture",
    "PictureDataModule",
    "PictureDataset",
    "PictureLoader",
    "PictureTransform",
    "Sample",
    "Split",
    "Task",
    "VisADataModule",
    "available_categories",
    "cut",
    "mvtec_samples",
    "picture_loader",
    "read_mask",
    "read_picture",
    "visa_samples",
    "write_demo",
]
