"""The road assembled: pictures to features, features to an expert, an expert to scores.

No Lightning and no Hydra: training grows one of these, and a notebook can load one.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import torch
from torch import Tensor

from moleflow import saving
from moleflow.calibration import ScoreScale
from moleflow.errors import UserError
from moleflow.expert_scores import ExpertScores
from moleflow.own_settings import Own
from moleflow.parts import build_part
from moleflow.routing import FeatureStatistics, Router
from moleflow.scored import Scored, SeenPictures
from moleflow.store import ExpertStore, model_folder

if TYPE_CHECKING:
    from moleflow.inference.predict import Prediction

PART_NAMES = ("transform", "backbone", "model", "router", "scoring")


class MoLEFlow(ExpertScores):
    """A model that learns categories one after another and scores pictures, each by the expert that the router picks.

    Args:
        settings: Settings of the parts ``transform``, ``backbone``, ``model``, ``router`` and ``scoring``, each with
            its ``_target_``; ``score_batch``, the pictures a forward pass (1 is best on a CPU); and ``feature_dtype``,
            ``float32`` or ``float16``.
        cache: Folder of the feature cache; ``memory`` keeps features for the life of the model, None keeps nothing.
        num_workers: Processes that decode pictures.
        device: Where to compute.
    """

    def __init__(
        self,
        settings: dict[str, Any],
        cache: Path | Literal["memory"] | None = None,
        num_workers: int = 0,
        device: str | torch.device = "cpu",
    ) -> None:
        missing = [name for name in (*PART_NAMES, "score_batch", "feature_dtype") if name not in settings]
        if missing:
            raise UserError(f"The model's settings lack {', '.join(missing)}.")
        super().__init__(settings, cache, num_workers, device)
        self.settings = settings
        self.router: Router = build_part("router", settings["router"])
        self.backbone_spec = self.parts.backbone.spec()
        self.notes: dict[str, dict[str, Any]] = {}
        self.seen: dict[str, SeenPictures] = {}

    # -- learning -----------------------------------------------------------------------------------------------------

    def add_expert(self, name: str, categories: Sequence[str], own: Own | None = None) -> None:
        """Create an expert for some categories; it has yet to be trained and made known to the router.

        Args:
            name: Its name.
            categories: What it is to learn.
            own: Where its settings differ from the model's; see :mod:`moleflow.own_settings`.

        Raises:
            UserError: If a setting is unknown, or its value not allowed.
        """
        own = own or {}
        self.flow.add_expert(name, **own.get("model", {}))
        self.notes[name] = {"categories": list(categories)}
        if own:
            self.notes[name]["settings"] = dict(own)
            self._own[name] = self.parts.scoring(own), self.parts.extractor(own)

    def parameter_counts(self) -> dict[str, Any]:
        """Return how many numbers ``base``, ``experts`` (by name) and ``backbone`` hold."""
        flow = self.flow
        return {
            "base": flow.numbers(),
            "experts": {name: flow.numbers(name) for name in flow.names},
            "backbone": sum(p.numel() for p in self.extractor.backbone.parameters()),
        }

    @torch.no_grad()
    def fit(self, name: str, grids: Tensor, image_features: Tensor) -> None:
        """Give a fresh expert its start: what the nearest one offers, and what its training patches say themselves.

        Args:
            name: The expert.
            grids: Training patches (V N, h, w, D): those of its N pictures, then of all of them in one turn after the
                other, if it learns them turned too.
            image_features: (N, D), one row a training picture, as the router sees it.
        """
        if self.router.names:
            self.flow.start_from(name, self.router.route(image_features.mean(0, keepdim=True))[0])
        pictures = torch.arange(len(grids)) % len(image_features)
        self.flow.fit(name, (part.to(self.device) for part in torch.split(grids, 32)), pictures)

    def learn_route(self, name: str, image_features: Tensor) -> None:
        """Tell the router what an expert's training pictures look like.

        Args:
            name: The expert.
            image_features: (N, D), one row a training picture.
        """
        self.router.add(name, FeatureStatistics.from_features(image_features.cpu()))

    def learn_normal(self, name: str, grids: Tensor, image_features: Tensor, paths: Sequence[Path]) -> None:
        """Remember what an expert says of its own training pictures: what is normal is told by it.

        If the scoring standardises, the scale of the expert's scores is learned first, from the same patch scores.

        Args:
            name: The expert, trained.
            grids: Patch features (N, h, w, D), one entry a training picture.
            image_features: (N, D), as the router sees the same pictures.
            paths: Where the pictures lie, for messages.
        """
        patches = self.patch_scores(grids, name, paths, training=True)
        if self.scoring.standardise:
            self.scales[name] = ScoreScale.from_training(patches, self.scoring_of(name))
            patches = self.scales[name].patches(patches)
        self.seen[name] = SeenPictures(image_features, self.image_scores(patches, [name] * len(grids)))

    def expert_of(self, category: str) -> str:
        """Return the expert that learned a category.

        Raises:
            UserError: If none did.
        """
        for name, note in self.notes.items():
            if category in note["categories"]:
                return name
        raise UserError(f"No expert has learned the category {category!r}.")

    # -- scoring ------------------------------------------------------------------------------------------------------

    @staticmethod
    def image_features(grids: Tensor) -> Tensor:
        """Return the mean over the grid of each picture, (N, D), on the CPU.

        Args:
            grids: Patch features (N, h, w, D).
        """
        return torch.stack([grid.clone().flatten(0, 1).mean(0) for grid in grids]).cpu()

    def score(self, paths: Sequence[Path | str], expert: str | None = None) -> list[Scored]:
        """Score pictures; see :meth:`stream`."""
        return list(self.stream(paths, expert))

    def predict(self, paths: Sequence[Path | str], expert: str | None = None) -> "list[Prediction]":
        """Say of each picture whether it is normal, has a defect, or is of an unknown category.

        A picture that cannot be read gets an error in its place; see :class:`moleflow.inference.predict.Predictor`.

        Args:
            paths: The pictures.
            expert: Score all with this expert; then no picture is unknown.
        """
        from moleflow.inference.predict import Predictor

        return list(Predictor(self).stream(paths, expert))

    def stream(self, paths: Sequence[Path | str], expert: str | None = None, chunk: int = 32) -> Iterator[Scored]:
        """Score pictures one after another, in order, with bounded memory.

        Args:
            paths: The pictures.
            expert: Score all with this expert instead of the router's choice.
            chunk: Pictures held in memory at a time.

        Raises:
            UserError: If a picture cannot be read, or the model has learned nothing yet.
        """
        if not self.flow.names:
            raise UserError("The model has no expert yet: train it first.")
        for start in range(0, len(paths), chunk):
            yield from self._score([Path(path) for path in paths[start : start + chunk]], expert)

    def _score(self, paths: list[Path], expert: str | None) -> list[Scored]:
        grids = self.extractor.features(paths)
        features = self.image_features(grids)
        margins, distances = self.router.margin(features).tolist(), self.router.distances(features)
        routes = self.router.route(features) if expert is None else [expert] * len(paths)
        scored: dict[int, Scored] = {}
        for name in dict.fromkeys(routes):
            chosen = [i for i, route in enumerate(routes) if route == name]
            column = self.router.names.index(name)
            patches = self.patches_of([paths[i] for i in chosen], name, grids[chosen])
            names = [name] * len(chosen)
            scores, maps = self.image_scores(patches, names), self.anomaly_maps(patches, names)
            for i, score, anomaly_map in zip(chosen, scores.tolist(), maps, strict=True):
                scored[i] = Scored(paths[i], score, anomaly_map, name, margins[i], float(distances[i, column]))
        return [scored[i] for i in range(len(paths))]

    # -- files --------------------------------------------------------------------------------------------------------

    def expert_state(self, name: str) -> dict[str, Tensor]:
        """Return all that an expert owns, as tensors by name."""
        return saving.expert_state(self, name)

    def load_expert(self, name: str, note: Mapping[str, Any], tensors: dict[str, Tensor]) -> None:
        """Create an expert from its note and from what :meth:`expert_state` returned."""
        saving.load_expert(self, name, note, tensors)

    def save(self, folder: Path) -> None:
        """Write the model folder."""
        saving.save(self, folder)

    def restore(self, folder: Path, experts: Sequence[str] | None = None) -> None:
        """Load base and experts from a model folder into this model, which has none yet.

        Args:
            folder: The model folder.
            experts: Names of the experts to load; None loads all.

        Raises:
            UserError: If a file is missing or damaged, or the folder was made with other backbone weights.
        """
        saving.restore(self, folder, experts)

    @classmethod
    def load(
        cls,
        run_folder: str | Path,
        device: str | torch.device = "cpu",
        num_workers: int = 0,
        cache: Path | Literal["memory"] | None = None,
    ) -> Self:
        """Return the model of a run folder (or of a model folder), ready to score pictures; see :class:`MoLEFlow`.

        Raises:
            UserError: If there is no model, or a file of it is missing or damaged.
        """
        folder = model_folder(Path(run_folder))
        settings = dict(ExpertStore(folder).manifest()["settings"])
        settings.pop("backbone_spec")
        model = cls(settings, cache, num_workers, device)
        model.restore(folder)
        return model
