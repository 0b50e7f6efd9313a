"""Ensembles: several models of the same categories whose standardized scores are averaged."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, Self, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from moleflow.data.groups import group_indices
from moleflow.data.image_io import ImageSource
from moleflow.data.samples import Sample
from moleflow.data.transforms import ImageTransform
from moleflow.detector.base import Detector
from moleflow.detector.calibration import read_calibrations
from moleflow.detector.detector import MoLEFlow
from moleflow.detector.feature_set import image_region
from moleflow.detector.folders import ENSEMBLE_FILE
from moleflow.detector.scorer import Scorer, scores_of_normal_images
from moleflow.detector.types import ExpertRecord, NormalScores
from moleflow.models.tensor_rule import MAX_DEVIATION, MIN_DEVIATION
from moleflow.runs.content import check_values
from moleflow.scoring.calibration import Moments, ScoreStandardizer
from moleflow.utils.errors import UserError
from moleflow.utils.io import read_checksummed_json, sha256, write_checksummed_json
from moleflow.utils.text import has_control_characters, one_line

MAX_MEMBERS = 100
"""Largest number of members of an ensemble."""


class EnsembleScorer:
    """Means of the members' image scores and anomaly maps.

    The patch scores of an image are those of all members, concatenated into one row.

    Args:
        members: The models; the first one determines the map size, to which the other maps are resampled.
    """

    def __init__(self, members: Sequence[MoLEFlow]) -> None:
        self.members = members

    @property
    def map_shape(self) -> tuple[int, ...]:
        """Height and width of an anomaly map in pixels."""
        return self.members[0].scorer.map_shape

    def score_images(
        self, images: Sequence[ImageSource], expert: str, features: Tensor | None = None, groups: Tensor | None = None
    ) -> Tensor:
        """Return the patch scores of all members, (N, P) float32.

        Args:
            images: The images: files, or images in memory.
            expert: Name of the expert.
            features: Patch features of the images at the first member's image size, if they are at hand.
            groups: Of training images of the expert, the index (N,) of each image's group.
        """
        rows = [
            member.scorer.score_images(images, expert, features if i == 0 else None, groups).flatten(1)
            for i, member in enumerate(self.members)
        ]
        return torch.cat(rows, 1)

    def image_scores(self, patch_scores: Sequence[Tensor] | Tensor, experts: Sequence[str]) -> Tensor:
        """Return the mean of the members' image scores, (N,) float32.

        Args:
            patch_scores: Rows (P,) of :meth:`score_images`.
            experts: The expert that scored each image.
        """
        pairs = zip(self.members, self._split(patch_scores, experts), strict=True)
        return torch.stack([member.scorer.image_scores(patches, experts) for member, patches in pairs]).mean(0)

    def anomaly_maps(self, patch_scores: Sequence[Tensor] | Tensor, experts: Sequence[str]) -> Tensor:
        """Return the mean of the members' anomaly maps, (N, H, W) float32.

        Args:
            patch_scores: Rows (P,) of :meth:`score_images`.
            experts: The expert that scored each image.
        """
        total = torch.zeros(len(experts), *self.map_shape)
        for member, patches in zip(self.members, self._split(patch_scores, experts), strict=True):
            maps = member.scorer.anomaly_maps(patches, experts)
            if maps.shape != total.shape:
                maps = F.interpolate(maps[:, None], self.map_shape, mode="bilinear", antialias=True)[:, 0]
            total += maps
        return total / len(self.members)

    def clear_merged_cache(self) -> None:
        """Drop the members' merged copies of experts."""
        for member in self.members:
            member.scorer.clear_merged_cache()

    def _split(self, patch_scores: Sequence[Tensor] | Tensor, experts: Sequence[str]) -> list[list[Tensor]]:
        """Return each member's patch scores (h, w) of each image."""
        split: list[list[Tensor]] = [[] for _ in self.members]
        for row, name in zip(patch_scores, experts, strict=True):
            grids = [member.experts[name].grid_shape for member in self.members]
            parts = row.split([height * width for height, width in grids])
            for patches, part, grid in zip(split, parts, grids, strict=True):
                patches.append(part.view(grid))
        return split


class EnsembleDetector(Detector):
    """Several models as one detector: image scores and anomaly maps are means over the members.

    Each member's scores are standardized by its own training scores (:class:`ScoreStandardizer`), so members of any
    kind have equal weight. The first member routes images and determines the map size.

    Args:
        members: The models.
        folders: The run folder of each member.

    Raises:
        UserError: If there are fewer than two members, one is given twice, or they do not match.
    """

    def __init__(self, members: Sequence[MoLEFlow], folders: Sequence[Path]) -> None:
        if len(members) < 2:
            raise UserError("An ensemble needs at least two runs.")
        for i, folder in enumerate(folders):
            if folder.resolve() in [earlier.resolve() for earlier in folders[:i]]:
                raise UserError(f"{folder} is given twice. Give each run of an ensemble once.")
        first = members[0]
        for folder, member in zip(folders[1:], members[1:], strict=True):
            _check_compatible(first, member, folders[0], folder)
        self.members = list(members)
        self.folders = list(folders)
        self.device = first.device
        self.extractor = first.extractor
        self.router = first.router
        self.scorer = EnsembleScorer(self.members)
        self.calibrations = {}
        self.experts: dict[str, ExpertRecord] = {
            name: replace(record, normal=None) for name, record in first.experts.items()
        }

    def __repr__(self) -> str:
        """Return class and members."""
        return f"{type(self).__name__}({', '.join(map(repr, self.members))})"

    @classmethod
    def from_runs(
        cls, folders: Sequence[Path], device: str | torch.device = "cpu", cache: Path | Literal["memory"] | None = None
    ) -> Self:
        """Return the ensemble of the models of some run folders, to be calibrated by :meth:`calibrate_members`.

        Args:
            folders: At least two run folders.
            device: Where the models compute.
            cache: Folder of the feature cache, ``memory`` or None.

        Raises:
            UserError: If there are fewer than two runs, or their models do not match.
        """
        return cls([MoLEFlow.load(folder, device, cache=cache) for folder in folders], folders)

    @classmethod
    def read(cls, path: Path, device: str | torch.device = "cpu") -> Self:
        """Return the ensemble of a file that :meth:`write` wrote, ready to score images.

        Raises:
            UserError: If the file is damaged, or a member is missing or has changed since.
        """
        content = read_checksummed_json(path)
        try:
            _check_content(content)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            reason = one_line(str(error) if isinstance(error, ValueError) else repr(error), 200)
            raise UserError(f"{path} is damaged ({reason}). Create the ensemble again.") from error
        folders = [path.parent / member["run"] for member in content["members"]]
        for folder, member in zip(folders, content["members"], strict=True):
            manifest = folder / "model" / "manifest.json"
            if not manifest.is_file() or sha256(manifest) != member["manifest"]:
                raise UserError(
                    f"{folder} is missing or has changed since the ensemble {path.parent} was written. Create the "
                    "ensemble again."
                )
        ensemble = cls.from_runs(folders, device)
        for model, member in zip(ensemble.members, content["members"], strict=True):
            for name, moments in member["standardizers"].items():
                if name not in model.experts:
                    raise UserError(f"{path} has a standardizer of {name!r}, which is no expert of {model!r}.")
                standardizer = ScoreStandardizer(**{key: Moments(*values) for key, values in moments.items()})
                model.experts[name].standardizer = standardizer
        if content["scores"].keys() != ensemble.experts.keys():
            raise UserError(f"{path} has no scores of some experts, or scores of unknown ones: create it again.")
        for name, scores in content["scores"].items():
            training = ensemble.experts[name].training
            assert training is not None
            if len(scores) != len(training.scores):
                raise UserError(
                    f"{path}: scores.{name} has {len(scores)} entries and must have {len(training.scores)}, one per "
                    "training image. Create the ensemble again."
                )
            # Files of version 0.1 have no maxima.
            maxima = content.get("maxima", content["scores"])[name]
            ensemble.experts[name].training = training._replace(
                scores=torch.tensor(scores), maxima=torch.tensor(maxima)
            )
        for name, normal in content.get("normal", {}).items():
            ensemble.experts[name].normal = NormalScores(**{key: torch.tensor(value) for key, value in normal.items()})
        ensemble.calibrations = read_calibrations(path.parent, ensemble.experts)
        return ensemble

    def write(self, path: Path) -> None:
        """Write the members' run folders and standardizers as JSON; the models stay in their run folders."""
        members = [
            {
                "run": os.path.relpath(folder.resolve(), path.parent.resolve()),
                "manifest": sha256(folder / "model" / "manifest.json"),
                "standardizers": {name: vars(r.standardizer) for name, r in member.experts.items() if r.standardizer},
            }
            for folder, member in zip(self.folders, self.members, strict=True)
        ]
        training = {name: record.training for name, record in self.experts.items() if record.training is not None}
        scores = {name: expert.scores.tolist() for name, expert in training.items()}
        maxima = {name: expert.maxima.tolist() for name, expert in training.items()}
        normal = {
            name: {key: values.tolist() for key, values in record.normal._asdict().items()}
            for name, record in self.experts.items()
            if record.normal is not None
        }
        content = {"members": members, "scores": scores, "maxima": maxima}
        write_checksummed_json(path, content | ({"normal": normal} if normal else {}))

    def calibrate_members(
        self,
        training_images: Sequence[Callable[[str], Sequence[Sample]]],
        validation_images: Callable[[str], Sequence[Sample]],
    ) -> None:
        """Standardize every member's scores where its training did not, and compute the ensemble's training scores.

        Args:
            training_images: For each member, a function that returns its training images of a category.
            validation_images: Function that returns the images of a category that are validation images of all members.
        """
        for name, record in self.experts.items():
            for member, images in zip(self.members, training_images, strict=True):
                member_record = member.experts[name]
                if member_record.standardizer is None:
                    patches = _scores_as_new(member.scorer, name, record, images)
                    member_record.standardizer = ScoreStandardizer.from_training(patches, member_record.postprocessor)
            patches = _scores_as_new(self.scorer, name, record, training_images[0])
            assert record.training is not None
            scores, maxima = scores_of_normal_images(self.scorer, name, patches)
            record.training = record.training._replace(scores=scores, maxima=maxima)
            validation = [sample.path for category in record.categories for sample in validation_images(category)]
            if validation:
                parts = [scores_of_normal_images(self.scorer, name, self.scorer.score_images(validation, name))]
                parts += [(scores, maxima)] if self.excludes_training_images else []
                record.normal = NormalScores(*map(torch.cat, zip(*parts, strict=True)))

    @property
    def excludes_training_images(self) -> bool:
        """Whether all members score training images as if the expert lacked them."""
        return all(member.excludes_training_images for member in self.members)

    def parameter_counts(self) -> dict[str, Any]:
        """Return the sums of the counts over the members."""
        total, *others = (member.parameter_counts() for member in self.members)
        for counts in others:
            for part in ("base", "backbone"):
                total[part] += counts[part]
            total["experts"] = {name: n + counts["experts"][name] for name, n in total["experts"].items()}
        return total


def load_detector(folder: str | Path, device: str | torch.device = "cpu") -> Detector:
    """Return the detector of a run folder: its trained model, or the ensemble of other runs.

    Raises:
        UserError: If there is none, or one of its files is missing or damaged.
    """
    path = Path(folder) / ENSEMBLE_FILE
    return EnsembleDetector.read(path, device) if path.is_file() else MoLEFlow.load(folder, device)


def _check_content(content: Mapping[str, Any]) -> None:
    """Check the structure of an ensemble's file, as far as its reader depends on it.

    Raises:
        ValueError: If an entry is not allowed; the message has its key and what is allowed.
        KeyError, TypeError, AttributeError: If an entry is missing or of another type.
    """
    check_values(content, ENSEMBLE_FILE)
    members = content["members"]
    if not isinstance(members, list) or not 2 <= len(members) <= MAX_MEMBERS:
        raise ValueError(f"members must be a list of 2 to {MAX_MEMBERS} runs")
    for i, member in enumerate(members):
        if not isinstance(member["run"], str) or not isinstance(member["manifest"], str):
            raise ValueError(f"members.{i}: run and manifest must be texts")
        if has_control_characters(member["run"]):
            raise ValueError(f"members.{i}.run must be a path without control characters")
        for name, moments in member["standardizers"].items():
            for key in ("patch", "image"):
                mean, deviation = (float(value) for value in moments[key])
                if not MIN_DEVIATION <= deviation <= MAX_DEVIATION or not abs(mean) <= MAX_DEVIATION:
                    raise ValueError(
                        f"members.{i}.standardizers.{name}.{key} is mean={mean:g}, deviation={deviation:g}, and the "
                        f"deviation must be between {MIN_DEVIATION:g} and {MAX_DEVIATION:g}"
                    )
    for name, scores in content["scores"].items():
        maxima = content.get("maxima", content["scores"])[name]
        if not isinstance(scores, list) or not isinstance(maxima, list) or len(maxima) != len(scores):
            raise ValueError(f"scores.{name} and maxima.{name} must be lists of equal length")
        if not all(isinstance(value, int | float) for value in (*scores, *maxima)):
            raise ValueError(f"scores.{name} and maxima.{name} must be lists of numbers")


def _scores_as_new(
    scorer: Scorer, expert: str, record: ExpertRecord, training_images: Callable[[str], Sequence[Sample]]
) -> Tensor:
    """Return the patch scores (N, ...) of an expert's training images, each scored without those of its group."""
    samples = [sample for category in record.categories for sample in training_images(category)]
    return scorer.score_images([sample.path for sample in samples], expert, groups=group_indices(samples))


def _check_compatible(first: MoLEFlow, other: MoLEFlow, first_folder: Path, folder: Path) -> None:
    """Check that two models have the same categories and transform images to the same region.

    Raises:
        UserError: If they do not.
    """
    categories, others = (_categories(model.experts) for model in (first, other))
    if categories != others:
        raise UserError(
            f"{folder} cannot join {first_folder}: the categories of its experts are {list(others.values())} instead "
            f"of {list(categories.values())}. Members of an ensemble are trained on the same categories and tasks."
        )
    regions = [image_region(cast(ImageTransform, model.extractor.transform)) for model in (first, other)]
    if regions[0] != regions[1]:
        raise UserError(
            f"{folder} cannot join {first_folder}: its region of an image is {regions[1]} instead of {regions[0]}. "
            "Sizes may differ, but not the region: the whole image (transform.mode=proportional or squash), or crop or "
            "pad to one aspect ratio."
        )


def _categories(experts: Mapping[str, ExpertRecord]) -> dict[str, list[str]]:
    return {name: sorted(record.categories) for name, record in experts.items()}
