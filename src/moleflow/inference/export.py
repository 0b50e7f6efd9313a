"""One expert as an ONNX graph: picture in, score and anomaly map out."""

import json
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from moleflow.data import PictureTransform
from moleflow.errors import UserError
from moleflow.files import replacing
from moleflow.inference.predict import limits
from moleflow.model import MoLEFlow
from moleflow.scoring import Scoring, centred, spread


class DeployedExpert(nn.Module):
    """Normalisation, backbone, merged expert and scoring in one module without choices.

    Args:
        model: The trained model, on the CPU.
        expert: The expert.
    """

    mean: Tensor
    std: Tensor
    rows: Tensor
    columns: Tensor

    def __init__(self, model: MoLEFlow, expert: str) -> None:
        super().__init__()
        transform, backbone = cast(PictureTransform, model.extractor_of(expert).transform), model.extractor.backbone
        self.shape = (transform.height, transform.width)
        self.body = backbone.body
        self.flow = model.flow.merged(expert)
        self.expert = expert
        self.scoring: Scoring = model.scoring_of(expert)
        self.scale = model.scales.get(expert)
        grid = backbone.grid(*self.shape)
        height, width = self.scoring.map_shape
        for name, value in (("mean", transform.mean), ("std", transform.std)):
            self.register_buffer(name, torch.tensor(value).view(1, 3, 1, 1))
        self.register_buffer("rows", spread(grid[0], height, self.scoring.sigma))
        self.register_buffer("columns", spread(grid[1], width, self.scoring.sigma).T.contiguous())

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """Return image scores (B,) and anomaly maps (B, H, W) of RGB pictures (B, 3, H, W) in 0 to 1."""
        grids = self.body((pictures - self.mean) / self.std)
        nll = self.flow.patch_scores(grids, self.expert)
        if self.scale:
            nll = self.scale.patches(nll)
        maps = (self.rows @ centred(nll, self.scoring.map_centre).double() @ self.columns).float()
        scores = self._score(nll)
        return self.scale.images(scores) if self.scale else scores, maps

    def _score(self, grids: Tensor) -> Tensor:
        scoring, patches = self.scoring, self.scoring.prepared(grids).flatten(1)
        count = patches.shape[1]
        match scoring.aggregation:
            case "max":
                return patches.amax(1)
            case "mean":
                return patches.mean(1)
            case "top_k":
                return patches.topk(scoring.top_k, 1).values.mean(1)
            case "top_k_percent":
                return patches.topk(max(1, int(count * scoring.top_k_percent)), 1).values.mean(1)
            case _:  # a quantile is a blend of two neighbours in order; ONNX has no operator for it
                place = scoring.percentile * (count - 1)
                below = min(int(place), count - 2) if count > 1 else 0
                ordered = patches.topk(count, 1, largest=False).values
                return torch.lerp(ordered[:, below], ordered[:, min(below + 1, count - 1)], place - below)


def export(model: MoLEFlow, category: str, path: Path) -> Path:
    """Write the expert of a category as ONNX.

    The graph takes ``pictures`` (B, 3, H, W), float32 RGB in 0 to 1, any B, and gives ``score`` (B,) and ``map``
    (B, H, W). The file's metadata holds the expert, its categories and threshold, and how a picture is brought to the
    graph's size: ``mode``, ``size`` and ``filter`` as in :class:`PictureTransform`, and for ``pad`` the ``fill``.

    Raises:
        UserError: If no expert learned the category, or packages of the extra ``export`` are missing.
    """
    expert = category if category in model.flow.names else model.expert_of(category)
    try:
        import onnx
        import onnxscript  # noqa: F401 — what the exporter needs
    except ImportError as error:
        raise UserError(f"{error.name} is not installed. Run: pip install 'moleflow[export]'") from error
    deployed = DeployedExpert(model, expert).eval()
    example = torch.rand(2, 3, *deployed.shape)
    with torch.no_grad():
        deployed(example)  # makes the position code once, so that the graph holds it as a constant
        program = torch.onnx.export(
            deployed,
            (example,),
            input_names=["pictures"],
            output_names=["score", "map"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    content = program.model_proto
    notes = {"expert": expert, "categories": json.dumps(model.notes[expert]["categories"])}
    spec = cast(PictureTransform, model.extractor_of(expert).transform).spec()
    notes |= {"mode": spec["mode"], "size": json.dumps(spec["size"]), "filter": spec["filter"]}
    if spec["mode"] == "pad":
        notes["fill"] = json.dumps(spec["mean"])
    if expert in model.seen:
        notes["threshold"] = repr(limits(model, expert).score)
    onnx.helper.set_model_props(content, notes)
    with replacing(path) as temporary:
        onnx.save_model(content, str(temporary))
    return path
