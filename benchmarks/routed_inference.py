"""Routed inference on a batch of mixed categories, against a loop over images with two passes each.

    python benchmarks/routed_inference.py --out routed_inference.json

From image files to image scores and anomaly maps, WideResNet-50-2 at 224 pixels, the default flow. moleflow computes
the features of an image once and merges experts. The other side is a straightforward implementation: for each image,
one pass of the backbone with unfold pooling for the router and one for the scores, the expert in the FrEIA form with
LoRA as separate layers, maps by bilinear interpolation and scipy's Gaussian filter. Routes, scores and maps must be
equal before a time is printed.
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from freia_form import FreiaForm
from inputs import new_model, perturb_parameters, write_image
from patch_pooling import unfold_pooling
from scipy.ndimage import gaussian_filter
from side_by_side import (
    assert_close,
    benchmark_parser,
    comparison_rows,
    parse_args,
    print_table,
    time_alternately,
    write_result,
)
from torch import Tensor
from torch.nn import functional as F

from moleflow.data.image_io import read_image
from moleflow.detector.base import mean_features
from moleflow.detector.detector import MoLEFlow
from moleflow.models.flow.expert_flow import ExpertFlow
from moleflow.models.flow.loss import patch_nll

SMOKE = ("backbone=resnet18", "backbone.dim=32", "transform.size=64", "model.coupling_layers=2", "model.lora_rank=4")


class Results(NamedTuple):
    """Results of one side for N images.

    Attributes:
        routes: Name of the expert of each image.
        scores: Image scores (N,).
        maps: Anomaly maps (N, H, W).
    """

    routes: list[str]
    scores: Tensor
    maps: Tensor


class TwoPasses:
    """The other side: one image at a time, with two passes of the backbone.

    Args:
        model: The model, whose weights are copied.
        features: Image features (N, D) of the training images by expert.
    """

    def __init__(self, model: MoLEFlow, features: dict[str, Tensor]) -> None:
        assert isinstance(model.patch_model, ExpertFlow)
        self.model = model
        self.body = model.extractor.backbone.body
        self.experts = {name: FreiaForm(model.patch_model, name).to(model.device) for name in model.patch_model.names}
        self.means = {name: values.double().mean(0) for name, values in features.items()}
        self.inverses = {
            name: torch.linalg.inv(values.double().T.cov() + 1e-5 * torch.eye(values.shape[1]))
            for name, values in features.items()
        }

    def features(self, image: Tensor) -> Tensor:
        """Return the patch features (1, h, w, D) of a normalized image (1, 3, H, W)."""
        return unfold_pooling(self.body._maps(image), self.model.extractor.backbone.dim)

    @torch.no_grad()
    def __call__(self, paths: Sequence[Path]) -> Results:
        """Return the results of image files."""
        routes, scores, maps = [], [], []
        for path in paths:
            image = self.model.extractor.transform(read_image(path))[None].to(self.model.device)
            feature = self.features(image).mean((1, 2))[0].double().cpu()
            gaps = {name: feature - mean for name, mean in self.means.items()}
            route = min(gaps, key=lambda name: float(gaps[name] @ self.inverses[name] @ gaps[name]))
            nll = patch_nll(*self.experts[route](self.features(image)))
            routes.append(route)
            scores.append(nll.flatten().topk(3).values.mean().cpu())
            large = F.interpolate(nll[None], self.model.scorer.map_shape, mode="bilinear", align_corners=True)[0, 0]
            maps.append(torch.from_numpy(gaussian_filter(large.cpu().double().numpy(), sigma=4)))
        return Results(routes, torch.stack(scores), torch.stack(maps))


def score(model: MoLEFlow, paths: Sequence[Path]) -> Results:
    """Return moleflow's results of image files."""
    scored = model.score(paths)
    return Results(
        [image.expert for image in scored],
        torch.tensor([image.score for image in scored]),
        torch.stack([image.anomaly_map for image in scored]),
    )


def main(args: Sequence[str] | None = None) -> None:
    """Check that both sides agree, time them, and print the table."""
    parser = benchmark_parser(__doc__)
    parser.set_defaults(repeats=3)
    parser.add_argument("--images", type=int, default=6, help="images to score")
    parser.add_argument("--experts", type=int, default=3, help="number of experts")
    parser.add_argument("--batch", type=int, help="images per forward pass; default: 1 on a CPU, 32 on a GPU")
    options = parse_args(parser, args)
    size = 64 if options.smoke else 256
    on_gpu = torch.device(options.device).type == "cuda"
    overrides = ["backbone.pretrained=false", "router=per_expert_covariance", *(SMOKE if options.smoke else ())]
    overrides += [f"features.batch_size={options.batch or (32 if on_gpu else 1)}"]

    model = new_model(*overrides, device=options.device)
    with tempfile.TemporaryDirectory() as folder:
        features: dict[str, Tensor] = {}
        for kind in range(options.experts):
            name = f"product{kind}"
            model.add_expert(name, [name])
            training = [write_image(Path(folder) / name / f"{i}.png", size, kind, i) for i in range(4)]
            features[name] = mean_features(model.extractor.features(training))
            model.register_with_router(name, features[name])
        perturb_parameters(model)
        paths = [
            write_image(Path(folder) / f"{i}.png", size, i % options.experts, 100 + i) for i in range(options.images)
        ]
        other = TwoPasses(model, features)
        ours, theirs = score(model, paths), other(paths)
        routes = [torch.tensor([model.router.names.index(name) for name in side.routes]) for side in (ours, theirs)]
        largest = float(ours.scores.abs().max())
        differences = {
            "routes": assert_close("routes", *routes, 0.0),
            "scores_relative": assert_close("scores", ours.scores / largest, theirs.scores / largest, 1e-4),
            "maps_relative": assert_close("maps", ours.maps / largest, theirs.maps / largest, 1e-4),
        }
        times = time_alternately(
            {"moleflow": lambda: score(model, paths), "two passes": lambda: other(paths)},
            options.repeats,
            options.device,
        )
    rows = comparison_rows(times, "two passes")
    for row in rows:
        row["images_per_second"] = options.images / row["seconds"]
    print_table(rows, {"form": "", "seconds": ".2f", "images_per_second": ".2f", "ratio": ".2f"})
    write_result(options.out, {"images": options.images, "differences": differences, "rows": rows}, options.device)


if __name__ == "__main__":
    main()
