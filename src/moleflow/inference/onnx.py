"""ONNX export of one expert, or of the router with all experts, as a graph from images to scores and anomaly maps."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from moleflow.data.transforms import ImageTransform
from moleflow.detector.detector import MoLEFlow
from moleflow.detector.feature_set import FIRST, FeatureSet
from moleflow.models.base import PatchModel
from moleflow.routing.router import Router
from moleflow.scoring.postprocessor import ScorePostprocessor, subtract_median
from moleflow.scoring.thresholds import Thresholds
from moleflow.utils.errors import UserError
from moleflow.utils.io import atomic_write


class DeployedBackbone(nn.Module):
    """Normalization and backbone of one feature set at one image size.

    Args:
        feature_set: The feature set, on the CPU.
        transform: Transform of the images.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, feature_set: FeatureSet, transform: ImageTransform) -> None:
        super().__init__()
        self.body = feature_set.backbone.body
        for name, value in (("mean", transform.mean), ("std", transform.std)):
            self.register_buffer(name, torch.tensor(value).view(1, 3, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Return the patch features (B, h, w, D) of RGB images (B, 3, H, W) in [0, 1]."""
        features: Tensor = self.body((images - self.mean) / self.std)
        return features


class DeployedExpert(nn.Module):
    """Patch models of an expert, their fusion, and postprocessing as one module without control flow.

    Args:
        model: The trained model, on the CPU.
        expert: Name of the expert.
    """

    rows: Tensor
    columns: Tensor

    def __init__(self, model: MoLEFlow, expert: str) -> None:
        super().__init__()
        record = model.experts[expert]
        self.expert = expert
        self.patch_models = nn.ModuleDict(
            {name: each.patch_model.merged(expert) for name, each in model.feature_sets.items()}
        )
        self.fusion = record.fusion
        self.postprocessor: ScorePostprocessor = record.postprocessor
        self.standardizer = record.standardizer
        rows, columns = self.postprocessor.upsampling_matrices(record.grid_shape)
        self.register_buffer("rows", rows)
        self.register_buffer("columns", columns.contiguous())

    def forward(self, features: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return image scores (B,) and anomaly maps (B, H, W).

        Args:
            features: Patch features (B, h_k, w_k, D_k) by feature set.
        """
        scores = {name: each.patch_scores(features[name], self.expert) for name, each in self._models()}
        patches = scores[FIRST] if self.fusion is None else self.fusion(scores)
        if self.standardizer:
            patches = self.standardizer.patches(patches)
        leveled = subtract_median(patches, self.postprocessor.map_subtract_median)
        maps = (self.rows @ leveled.double() @ self.columns).float()
        image_scores = self._aggregate(patches)
        return self.standardizer.images(image_scores) if self.standardizer else image_scores, maps

    def _models(self) -> Iterable[tuple[str, PatchModel]]:
        return cast(Iterable[tuple[str, PatchModel]], self.patch_models.items())

    def _aggregate(self, grids: Tensor) -> Tensor:
        postprocessor = self.postprocessor
        patches = postprocessor.aggregation_input(grids).flatten(1)
        count = patches.shape[1]
        match postprocessor.aggregation:
            case "max":
                return patches.amax(1)
            case "mean":
                return patches.mean(1)
            case "top_k":
                return patches.topk(postprocessor.top_k, 1).values.mean(1)
            case "top_k_percent":
                return patches.topk(max(1, int(count * postprocessor.top_k_percent)), 1).values.mean(1)
            case _:  # ONNX has no quantile operator: interpolate between the two order statistics
                position = postprocessor.percentile * (count - 1)
                below = min(int(position), count - 2) if count > 1 else 0
                ordered = patches.topk(count, 1, largest=False).values
                return torch.lerp(ordered[:, below], ordered[:, min(below + 1, count - 1)], position - below)


class DeployedRouter(nn.Module):
    """Router distances as matrix products, without triangular solves.

    Args:
        router: The router, with at least one expert.
    """

    def __init__(self, router: Router) -> None:
        super().__init__()
        self.count = 0
        for center, whitening, means in router.affine_form():
            for name, value in (("center", center), ("whitening", whitening), ("means", means)):
                self.register_buffer(f"{name}{self.count}", value)
            self.count += 1

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return the index (B,) int64 of the nearest expert and the distance (B,) float32 to it.

        Args:
            features: Patch features (B, h, w, D) by which images are routed.
        """
        values = features.flatten(1, 2).mean(1).double()
        parts = []
        for i in range(self.count):
            center, whitening, means = (self.get_buffer(f"{name}{i}") for name in ("center", "whitening", "means"))
            differences = ((values - center) @ whitening)[:, None] - means
            parts.append(differences.square().sum(2).sqrt())
        distances = torch.cat(parts, 1)
        index = distances.argmin(1)
        return index, distances.gather(1, index[:, None])[:, 0].float()


class DeployedDetector(nn.Module):
    """Backbones with one expert, or with the router and all experts.

    Images of equal size and resizing share an input.

    Args:
        model: The trained model, on the CPU.
        expert: Name of the expert; None: the router and all experts.

    Attributes:
        names: Names of the experts.
        inputs: Geometry of the images of each input, by name: ``images``, and ``images_HxW`` for each further size.
        shapes: Height and width of each input.
    """

    def __init__(self, model: MoLEFlow, expert: str | None = None) -> None:
        super().__init__()
        self.names = model.router.names if expert is None else [expert]
        self.inputs: dict[str, dict[str, Any]] = {}
        self.shapes: list[tuple[int, int]] = []
        self.backbones = nn.ModuleDict()
        self._input_indices: dict[str, int] = {}
        self.router: DeployedRouter | None = None
        if expert is None:
            self.router = DeployedRouter(model.router)
            routed_by = next(n for n, each in model.feature_sets.items() if each.backbone is model.extractor.backbone)
            self._routed_by = self._add(model, routed_by, cast(ImageTransform, model.extractor.transform))
        self._features = [
            {key: self._add(model, key, transform) for key, transform in model.experts[name].transforms.items()}
            for name in self.names
        ]
        self.experts = nn.ModuleList([DeployedExpert(model, name) for name in self.names])

    def forward(self, *images: Tensor) -> tuple[Tensor, ...]:
        """Return image scores (B,) and anomaly maps (B, H, W); with the router also its index and distance (B,) each.

        Args:
            images: RGB images (B, 3, H_i, W_i) in [0, 1] of each input.
        """
        features = {key: backbone(images[self._input_indices[key]]) for key, backbone in self.backbones.items()}
        results = [
            expert({name: features[key] for name, key in keys.items()})
            for expert, keys in zip(self.experts, self._features, strict=True)
        ]
        if self.router is None:
            scores, maps = results[0]
            return scores, maps
        index, distance = self.router(features[self._routed_by])
        scores = torch.stack([score for score, _ in results], 1).gather(1, index[:, None])[:, 0]
        stacked = torch.stack([each for _, each in results], 1)
        maps = stacked.gather(1, index[:, None, None, None].expand(-1, 1, *stacked.shape[2:]))[:, 0]
        return scores, maps, index, distance

    def _add(self, model: MoLEFlow, feature_set: str, transform: ImageTransform) -> str:
        """Return the key of the backbone of a feature set for a transform, after adding both if they are new."""
        geometry = _geometry(transform)
        if geometry not in self.inputs.values():
            name = f"images_{transform.height}x{transform.width}" if self.inputs else "images"
            repeated = sum(other == name or other.startswith(f"{name}_") for other in self.inputs)
            self.inputs[f"{name}_{repeated + 1}" if repeated else name] = geometry
            self.shapes.append((transform.height, transform.width))
        index = list(self.inputs.values()).index(geometry)
        key = f"{feature_set}-{index}"
        if key not in self.backbones:
            self.backbones[key] = DeployedBackbone(model.feature_sets[feature_set], transform)
            self._input_indices[key] = index
        return key


def export_onnx(model: MoLEFlow, category: str | None, path: Path) -> Path:
    """Write the expert of a category, or the router with all experts, as an ONNX file.

    The graph's input is ``images`` (B, 3, H, W), float32 RGB in [0, 1], for any B; its outputs are ``score`` (B,) and
    ``map`` (B, H, W). For images of further sizes there are inputs ``images_HxW``. With the router there are the
    outputs ``expert`` (B,) int64, an index into the experts of the metadata, and ``distance`` (B,).

    The metadata has the experts with their categories and thresholds, and how an image is brought to the size of
    ``images``: ``mode``, ``size``, ``filter`` and ``input_range`` of :class:`ImageTransform`, and for ``pad`` the
    ``fill``; those of a further input are JSON under its name.

    Args:
        model: The trained model, on the CPU.
        category: A category or the name of an expert; None: the router and all experts.
        path: The file to write.

    Raises:
        UserError: If no expert was trained on the category, or packages of the extra ``export`` are missing.
    """
    expert = category if category is None or category in model.experts else model.expert_of(category)
    try:
        import onnx
        import onnxscript  # noqa: F401 — required by torch.onnx
    except ImportError as error:
        raise UserError(f"{error.name} is not installed. Run: pip install 'moleflow[export]'") from error
    deployed = DeployedDetector(model, expert).eval()
    examples = tuple(torch.rand(2, 3, *shape) for shape in deployed.shapes)
    with torch.no_grad():
        deployed(*examples)  # caches the positional encoding, so that the graph holds it as a constant
        program = torch.onnx.export(
            deployed,
            examples,
            input_names=list(deployed.inputs),
            output_names=["score", "map", *(["expert", "distance"] if expert is None else [])],
            dynamic_shapes={"images": tuple({0: torch.export.Dim("batch")} for _ in examples)},
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    proto = program.model_proto
    onnx.helper.set_model_props(proto, _metadata(model, deployed))
    with atomic_write(path) as temporary:
        onnx.save_model(proto, str(temporary))
    return path


def _metadata(model: MoLEFlow, deployed: DeployedDetector) -> dict[str, str]:
    first, *further = deployed.inputs
    if deployed.router is None:
        (name,) = deployed.names
        entry = _expert_metadata(model, name)
        metadata = {"expert": name, **{key: _text(value) for key, value in entry.items() if key != "name"}}
    else:
        metadata = {"experts": json.dumps([_expert_metadata(model, name) for name in deployed.names])}
    inputs = deployed.inputs
    texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in inputs[first].items()}
    texts["input_range"] = json.dumps(inputs[first]["input_range"])
    return metadata | texts | {name: json.dumps(inputs[name]) for name in further}


def _expert_metadata(model: MoLEFlow, name: str) -> dict[str, Any]:
    """Return name, categories, thresholds and scales of normalization of an expert; None without a threshold."""
    thresholds: Thresholds = model.thresholds(name)
    return {
        "name": name,
        "categories": list(model.experts[name].categories),
        "threshold": thresholds.score.value,
        "threshold_scale": thresholds.score.scale,
        "pixel_threshold": thresholds.pixel.value,
        "pixel_threshold_scale": thresholds.pixel.scale,
        "distance_threshold": thresholds.distance.value,
        "false_alarm_rate": thresholds.rate,
        "threshold_source": thresholds.source,
    }


def _text(value: Any) -> str:
    """Return a value of the metadata as text: empty for None."""
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value)


def _geometry(transform: ImageTransform) -> dict[str, Any]:
    """Return how an image is brought to an input of the graph, which normalizes it."""
    spec = transform.spec()
    geometry = {key: spec[key] for key in ("mode", "size", "filter")}
    geometry["input_range"] = spec.get("input_range", "auto")
    return geometry | ({"fill": spec["mean"]} if spec["mode"] == "pad" else {})
