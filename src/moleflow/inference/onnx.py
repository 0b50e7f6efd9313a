"""ONNX export: one expert as a graph from an image to its score and anomaly map."""

import json
from pathlib import Path

import torch
from torch import Tensor, nn

from moleflow.detector.detector import MoLEFlow
from moleflow.scoring.postprocessor import ScorePostprocessor, subtract_median, upsampling_matrix
from moleflow.utils.errors import UserError
from moleflow.utils.io import atomic_write


class DeployedExpert(nn.Module):
    """Normalization, backbone, merged expert and postprocessing as one module without control flow.

    Args:
        model: The trained model, on the CPU.
        expert: Name of the expert.
    """

    mean: Tensor
    std: Tensor
    rows: Tensor
    columns: Tensor

    def __init__(self, model: MoLEFlow, expert: str) -> None:
        super().__init__()
        record, backbone = model.experts[expert], model.extractor.backbone
        transform = record.transform
        self.shape = (transform.height, transform.width)
        self.body = backbone.body
        self.patch_model = model.patch_model.merged(expert)
        self.expert = expert
        self.postprocessor: ScorePostprocessor = record.postprocessor
        self.standardizer = record.standardizer
        grid = record.grid_shape
        height, width = self.postprocessor.map_shape
        for name, value in (("mean", transform.mean), ("std", transform.std)):
            self.register_buffer(name, torch.tensor(value).view(1, 3, 1, 1))
        self.register_buffer("rows", upsampling_matrix(grid[0], height, self.postprocessor.sigma))
        self.register_buffer("columns", upsampling_matrix(grid[1], width, self.postprocessor.sigma).T.contiguous())

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return image scores (B,) and anomaly maps (B, H, W) of RGB images (B, 3, H, W) in [0, 1]."""
        features = self.body((images - self.mean) / self.std)
        patches = self.patch_model.patch_scores(features, self.expert)
        if self.standardizer:
            patches = self.standardizer.patches(patches)
        leveled = subtract_median(patches, self.postprocessor.map_subtract_median)
        maps = (self.rows @ leveled.double() @ self.columns).float()
        scores = self._aggregate(patches)
        return self.standardizer.images(scores) if self.standardizer else scores, maps

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
    the ``fill``.

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
    example = torch.rand(2, 3, *deployed.shape)
    with torch.no_grad():
        deployed(example)  # caches the positional encoding, so that the graph holds it as a constant
        program = torch.onnx.export(
            deployed,
            (example,),
            input_names=["images"],
            output_names=["score", "map"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    proto = program.model_proto
    onnx.helper.set_model_props(proto, _metadata(model, expert))
    with atomic_write(path) as temporary:
        onnx.save_model(proto, str(temporary))
    return path


def _metadata(model: MoLEFlow, expert: str) -> dict[str, str]:
    record = model.experts[expert]
    spec = record.transform.spec()
    metadata = {
        "expert": expert,
        "categories": json.dumps(list(record.categories)),
        "mode": spec["mode"],
        "size": json.dumps(spec["size"]),
        "filter": spec["filter"],
        "input_range": json.dumps(spec.get("input_range", "auto")),
        "threshold": repr(model.thresholds(expert).score),
    }
    return metadata | ({"fill": json.dumps(spec["mean"])} if spec["mode"] == "pad" else {})
