"""The one thing that every layout yields: where a picture lies and what is known about it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

GOOD = "good"
"""The defect name of a normal picture, as MVTec AD writes it."""

Split = Literal["train", "test"]


@dataclass(frozen=True, slots=True)
class Sample:
    """One picture of one category.

    Attributes:
        path: The picture's file.
        category: The product class it belongs to.
        split: Whether it is learned from or tested on.
        defect: Name of the defect, ``"good"`` when normal.
        mask: The file that marks the defect's pixels; ``None`` for normal pictures and where nothing is marked.
    """

    path: Path
    category: str
    split: Split
    defect: str
    mask: Path | None

    @property
    def label(self) -> int:
        """0 for a normal picture, 1 for one with a defect."""
        return int(self.defect != GOOD)
