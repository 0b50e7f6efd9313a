"""ONNX export: one expert as a graph from an image to its score and anomaly map."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from moleflow.data.transforms import ImageTransform
from moleflow.detector.detector import MoLEFlow
from moleflow.detector.feature_set import FIRST, FeatureSet
from moleflow.scoring.postprocessor import ScorePostprocessor, subtract_median
from moleflow.scoring.thresholds import Thresholds
from moleflow.utils.errors import UserError
from moleflow.utils.io import atomic_write


class DeployedFeatureSet(nn.Module):
    """Normalization, backbone and merged expert of one feature set.

    Args:
        feature_set: The feature set, on the CPU.
        expert: Name of the expert.
        transform: Transform of the expert's images.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, feature_set: FeatureSet, expert: str, transform: ImageTransform) -> None:
        super().__init__()
        self.body = feature_set.backbone.body
        self.patch_model = feature_set.patch_model.merged(expert)
        self.expert = expert
        for name, value in (("mean", transform.mean), ("std", transform.std)):
            self.register_buffer(name, torch.tensor(value).view(1, 3, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Return the patch scores (B, h, w) of RGB images (B, 3, H, W) in [0, 1]."""
        return self.patch_model.patch_scores(self.body((images - self.mean) / self.std), self.expert)


class DeployedExpert(nn.Module):
    """All feature sets of an expert, their fusion, and postprocessing as one module without control flow.

    Feature sets whose images are equal before normalization share an input.

    Args:
        model: The trained model, on the CPU.
        expert: Name of the expert.

    Attributes:
        inputs: Geometry of the images of each input, by name: ``images`` for the first feature set, and
            ``images_<name>`` for the first of those with other images. See :func:`export_onnx`.
        shapes: Height and width of each input.
    """

    rows: Tensor
    columns: Tensor

    def __init__(self, model: MoLEFlow, expert: str) -> None:
        super().__init__()
        record = model.experts[expert]
        self.inputs: dict[str, dict[str, Any]] = {}
        self.shapes: list[tuple[int, int]] = []
        self.input_indices: dict[str, int] = {}
        for name, transform in record.transforms.items():
            geometry = _geometry(transform)
            if geometry not in self.inputs.values():
                self.inputs["images" if name == FIRST else f"images_{name}"] = geometry
                self.shapes.append((transform.height, transform.width))
            self.input_indices[name] = list(self.inputs.values()).index(geometry)
        self.feature_sets = nn.ModuleDict(
            {
                name: DeployedFeatureSet(model.feature_sets[name], expert, transform)
                for name, transform in record.transforms.items()
            }
        )
        self.fusion = record.fusion
        self.postprocessor: ScorePostprocessor = record.postprocessor
        self.standardizer = record.standardizer
        rows, columns = self.postprocessor.upsampling_matrices(record.grid_shape)
        self.register_buffer("rows", rows)
        self.register_buffer("columns", columns.contiguous())

    def forward(self, *images: Tensor) -> tuple[Tensor, Tensor]:
        """Return image scores (B,) and anomaly maps (B, H, W) of RGB images (B, 3, H_i, W_i) in [0, 1], one per input.

        Args:
            images: The images of each input.
        """
        scores = {name: each(images[self.input_indices[name]]) for name, each in self.feature_sets.items()}
        patches = scores[FIRST] if self.fusion is None else self.fusion(scores)
        if self.standardizer:
            patches = self.standardizer.patches(patches)
        leveled = subtract_median(patches, self.postprocessor.map_subtract_median)
        maps = (self.rows @ leveled.double() @ self.columns).float()
        image_scores = self._aggregate(patches)
        return self.standardizer.images(image_scores) if self.standardizer else image_scores, maps

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


def export_onnx(model: MoLEFlow, category: str, path: Path) -> Path:
    """Write the expert of a category as an ONNX file.

    The graph's input is ``images`` (B, 3, H, W), float32 RGB in [0, 1], for any B; its outputs are ``score`` (B,) and
    ``map`` (B, H, W). The metadata holds the expert, its categories and score threshold, and how an image is brought
    to the graph's size: ``mode``, ``size``, ``filter`` and ``input_range`` of :class:`ImageTransform`, and for ``pad``
    the ``fill``. With several feature sets of different sizes there are further inputs ``images_<name>``; the metadata
    has these keys of each as JSON under the input's name.

    Args:
        model: The trained model, on the CPU.
        category: A category or the name of an expert.
        path: The file to write.

    Raises:
        UserError: If no expert was trained on the category, or packages of the extra ``export`` are missing.
    """
    expert = category if category in model.experts else model.expert_of(category)
    try:
        import onnx
        import onnxscript  # noqa: F401 — required by torch.onnx
    except ImportError as error:
        raise UserError(f"{error.name} is not installed. Run: pip install 'moleflow[export]'") from error
    deployed = DeployedExpert(model, expert).eval()
    examples = tuple(torch.rand(2, 3, *shape) for shape in deployed.shapes)
    with torch.no_grad():
        deployed(*examples)  # caches the positional encoding, so that the graph holds it as a constant
        program = torch.onnx.export(
            deployed,
            examples,
            input_names=list(deployed.inputs),
            output_names=["score", "map"],
            dynamic_shapes={"images": tuple({0: torch.export.Dim("batch")} for _ in examples)},
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    proto = program.model_proto
    onnx.helper.set_model_props(proto, _metadata(model, expert, deployed.inputs))
    with atomic_write(path) as temporary:
        onnx.save_model(proto, str(temporary))
    return path


def _metadata(model: MoLEFlow, expert: str, inputs: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    first, *further = inputs
    metadata = {
        "expert": expert,
        "categories": json.dumps(list(model.experts[expert].categories)),
        **_threshold_metadata(model.thresholds(expert)),
    }
    texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in inputs[first].items()}
    texts["input_range"] = json.dumps(inputs[first]["input_range"])
    return metadata | texts | {name: json.dumps(inputs[name]) for name in further}


def _threshold_metadata(thresholds: Thresholds) -> dict[str, str]:
    """Return the thresholds and the scales of normalization; empty strings without a threshold."""
    return {
        "threshold": _number(thresholds.score.value),
        "threshold_scale": _number(thresholds.score.scale),
        "pixel_threshold": _number(thresholds.pixel.value),
        "pixel_threshold_scale": _number(thresholds.pixel.scale),
        "false_alarm_rate": _number(thresholds.rate),
    }


def _number(value: float | None) -> str:
    return "" if value is None else repr(float(value))


def _geometry(transform: ImageTransform) -> dict[str, Any]:
    """Return how an image is brought to an input of the graph, which normalizes it."""
    spec = transform.spec()
    geometry = {key: spec[key] for key in ("mode", "size", "filter")}
    geometry["input_range"] = spec.get("input_range", "auto")
    return geometry | ({"fill": spec["mean"]} if spec["mode"] == "pad" else {})
