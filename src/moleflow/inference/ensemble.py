"""Several models of the same categories as one: each on its own size or backbone, averaged on one scale."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, Self, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from moleflow.calibration import ScoreScale
from moleflow.data import PictureTransform
from moleflow.errors import UserError
from moleflow.files import read_sealed, sha256, write_sealed
from moleflow.model import MoLEFlow
from moleflow.scored import SeenPictures
from moleflow.store import ENSEMBLE_FILE


class Ensemble(MoLEFlow):
    """A model that asks others, too: image scores and maps are means over all members.

    Each member's scores are in standard deviations of its own training scores (:class:`ScoreScale`), so members of any
    kind have the same weight. The first member, which this object itself is, routes pictures and decides the map's
    size; where maps differ in size, they are resampled to it.

    The patch scores of a picture are those of all members, one after the other, as one row.
    """

    folders: list[Path]
    others: list[MoLEFlow]

    @classmethod
    def joined(
        cls, folders: Sequence[Path], device: str | torch.device = "cpu", cache: Path | Literal["memory"] | None = None
    ) -> Self:
        """Return the models of some run folders as one; they have yet to be put on one scale.

        Args:
            folders: At least two run folders.
            device: Where to compute.
            cache: As :class:`MoLEFlow`.

        Raises:
            UserError: If there are fewer than two models, or they do not go together.
        """
        if len(folders) < 2:
            raise UserError("An ensemble needs at least two runs.")
        for i, folder in enumerate(folders):
            if folder.resolve() in [earlier.resolve() for earlier in folders[:i]]:
                raise UserError(f"{folder} is named twice. Members of an ensemble are different runs: name each once.")
        made = cls.load(folders[0], device, cache=cache)
        made.folders = list(folders)
        made.others = [MoLEFlow.load(folder, device, cache=cache) for folder in folders[1:]]
        for folder, other in zip(folders[1:], made.others, strict=True):
            _check_alike(made, other, folders[0], folder)
        return made

    @classmethod
    def read(cls, path: Path, device: str | torch.device = "cpu") -> Self:
        """Return the ensemble that :meth:`write` wrote, ready to score pictures.

        Raises:
            UserError: If the file is damaged, or a member is missing or has changed since.
        """
        content = read_sealed(path)
        folders = [path.parent / member["run"] for member in content["members"]]
        for folder, member in zip(folders, content["members"], strict=True):
            manifest = folder / "model" / "manifest.json"
            if not manifest.is_file() or sha256(manifest) != member["manifest"]:
                raise UserError(f"{folder} is gone or has changed since {path.parent} was made. Make that again.")
        made = cls.joined(folders, device)
        for model, member in zip(made.members, content["members"], strict=True):
            model.scales = {name: ScoreScale(**scale) for name, scale in member["scales"].items()}
        for name, scores in content["scores"].items():
            made.seen[name] = SeenPictures(made.seen[name].features, torch.tensor(scores))
        return made

    def write(self, path: Path) -> None:
        """Write which runs the members are, and their scales, as a small JSON file; the models stay where they are."""
        members = [
            {
                "run": os.path.relpath(folder.resolve(), path.parent.resolve()),
                "manifest": sha256(folder / "model" / "manifest.json"),
                "scales": {name: vars(scale) for name, scale in member.scales.items()},
            }
            for folder, member in zip(self.folders, self.members, strict=True)
        ]
        scores = {name: seen.scores.tolist() for name, seen in self.seen.items()}
        write_sealed(path, {"members": members, "scores": scores})

    @property
    def members(self) -> list[MoLEFlow]:
        """All models; the first one is this."""
        return [self, *self.others]

    def put_on_scale(self, learned: Sequence[Callable[[str], Sequence[Path]]]) -> None:
        """Learn every member's scale, where training left none, and what the ensemble says of normal pictures.

        Args:
            learned: For each member, the pictures it has learned of a category.
        """
        for name in self.flow.names:
            for member, pictures in zip(self.members, learned, strict=True):
                if name not in member.scales:
                    paths = [path for category in self.notes[name]["categories"] for path in pictures(category)]
                    patches = MoLEFlow.patches_of(member, paths, name, training=True)
                    member.scales[name] = ScoreScale.from_training(patches, member.scoring_of(name))
            paths = [path for category in self.notes[name]["categories"] for path in learned[0](category)]
            scores = self.image_scores(self.patches_of(paths, name, training=True), [name] * len(paths))
            self.seen[name] = SeenPictures(self.seen[name].features, scores)

    def patches_of(
        self, paths: Sequence[Path], expert: str, common: Tensor | None = None, training: bool = False
    ) -> Tensor:
        """Return the patch scores of all members, (N, P) float32; see :meth:`MoLEFlow.patches_of`."""
        own = super().patches_of(paths, expert, common, training)
        others = [other.patches_of(paths, expert, training=training).flatten(1) for other in self.others]
        return torch.cat([own.flatten(1), *others], 1)

    def image_scores(self, patch_scores: Sequence[Tensor] | Tensor, experts: Sequence[str]) -> Tensor:
        """Return the mean of the members' image scores; see :meth:`MoLEFlow.image_scores`."""
        split = self._split(patch_scores, experts)
        scores = [MoLEFlow.image_scores(*pair, experts) for pair in zip(self.members, split, strict=True)]
        return torch.stack(scores).mean(0)

    def anomaly_maps(self, patch_scores: Sequence[Tensor] | Tensor, experts: Sequence[str]) -> Tensor:
        """Return the mean of the members' maps at the first one's size; see :meth:`MoLEFlow.anomaly_maps`."""
        total = torch.zeros(len(experts), *self.scoring.map_shape)
        for member, patches in zip(self.members, self._split(patch_scores, experts), strict=True):
            maps = MoLEFlow.anomaly_maps(member, patches, experts)
            if maps.shape != total.shape:
                maps = F.interpolate(maps[:, None], self.scoring.map_shape, mode="bilinear", antialias=True)[:, 0]
            total += maps
        return total / len(self.members)

    def parameter_counts(self) -> dict[str, Any]:
        """Return the sums over members; see :meth:`MoLEFlow.parameter_counts`."""
        first, *others = (MoLEFlow.parameter_counts(member) for member in self.members)
        for counts in others:
            for part in ("base", "backbone"):
                first[part] += counts[part]
            first["experts"] = {name: n + counts["experts"][name] for name, n in first["experts"].items()}
        return first

    def _split(self, patch_scores: Sequence[Tensor] | Tensor, experts: Sequence[str]) -> list[list[Tensor]]:
        """Return each member's patch scores (h, w) of each picture."""
        split: list[list[Tensor]] = [[] for _ in self.members]
        for row, name in zip(patch_scores, experts, strict=True):
            grids = [member.grid_of(name) for member in self.members]
            parts = row.split([height * width for height, width in grids])
            for patches, part, grid in zip(split, parts, grids, strict=True):
                patches.append(part.view(grid))
        return split


def _check_alike(first: MoLEFlow, other: MoLEFlow, first_path: Path, path: Path) -> None:
    """Make sure that two models speak of the same categories and see the same part of a picture.

    Raises:
        UserError: If they do not.
    """
    learned, others = (
        {name: sorted(note["categories"]) for name, note in model.notes.items()} for model in (first, other)
    )
    if learned != others:
        raise UserError(
            f"{path} cannot join {first_path}: its experts hold {list(others.values())} instead of "
            f"{list(learned.values())}. Members of an ensemble learn the same categories in the same tasks."
        )
    views = [_view(cast(PictureTransform, model.extractor.transform)) for model in (first, other)]
    if views[0] != views[1]:
        raise UserError(
            f"{path} cannot join {first_path}: it sees another part of a picture ({views[1]} instead of {views[0]}). "
            "Sizes may differ, but not transform.mode, nor the proportion of the sides unless it is squash."
        )


def _view(transform: PictureTransform) -> str:
    square = transform.mode == "squash"
    return transform.mode if square else f"{transform.mode} to {transform.width / transform.height:.3f}:1"


def load_model(folder: str | Path, device: str | torch.device = "cpu") -> MoLEFlow:
    """Return the model of a run folder, whether it learned one itself or is an ensemble of others.

    Raises:
        UserError: If there is none, or a file of it is missing or damaged.
    """
    path = Path(folder) / ENSEMBLE_FILE
    return Ensemble.read(path, device) if path.is_file() else MoLEFlow.load(folder, device)
