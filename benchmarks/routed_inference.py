"""Routed inference on a batch of mixed categories, against a loop over images with two passes each.

    python benchmarks/routed_inference.py --out routed_inference.json

From files to image scores and anomaly maps, WideResNet-50-2 at 224 pixels, the default flow. Ours: features once a
image, experts merged. The other side is how one writes it first: for each image the backbone and the unfold form of
the pooling once for the router and once for the scores, the expert in the FrEIA form with LoRA as layers of its own,
maps by bilinear interpolation and scipy's Gaussian. Routes, scores and maps must be equal before anything is timed.
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from freia_form import FreiaForm
from patch_pooling import unfold_form
from program import fresh_model, perturb, write_image
from scipy.ndimage import gaussian_filter
from side_by_side import agree, compared, parse, parser, show, take_turns, write
from torch import Tensor
from torch.nn import functional as F

from moleflow.data.image_io import read_image
from moleflow.detector.detector import MoLEFlow
from moleflow.models.flow.expert_flow import ExpertFlow
from moleflow.models.flow.loss import patch_nll

SMOKE = ("backbone=resnet18", "backbone.dim=32", "transform.size=64", "model.coupling_layers=2", "model.lora_rank=4")
Answers = tuple[list[str], Tensor, Tensor]


class TwoPasses:
    """The other side: one image at a time, two passes each."""

    def __init__(self, model: MoLEFlow, features: dict[str, Tensor]) -> None:
        assert isinstance(model.flow, ExpertFlow)
        self.model = model
        self.body = model.extractor.backbone.body
        self.experts = {name: FreiaForm(model.flow, name).to(model.device) for name in model.flow.names}
        self.means = {name: values.double().mean(0) for name, values in features.items()}
        self.inverses = {
            name: torch.linalg.inv(values.double().T.cov() + 1e-5 * torch.eye(values.shape[1]))
            for name, values in features.items()
        }

    def backbone(self, image: Tensor) -> Tensor:
        return unfold_form(self.body._maps(image), self.model.extractor.backbone.dim)

    @torch.no_grad()
    def __call__(self, paths: list[Path]) -> Answers:
        routes, scores, maps = [], [], []
        for path in paths:
            image = self.model.extractor.transform(read_image(path))[None].to(self.model.device)
            feature = self.backbone(image).mean((1, 2))[0].double().cpu()
            gaps = {name: feature - mean for name, mean in self.means.items()}
            route = min(gaps, key=lambda name: float(gaps[name] @ self.inverses[name] @ gaps[name]))
            nll = patch_nll(*self.experts[route](self.backbone(image)))
            routes.append(route)
            scores.append(nll.flatten().topk(3).values.mean().cpu())
            size = self.model.scoring.map_shape
            large = F.interpolate(nll[None], size, mode="bilinear", align_corners=True)[0, 0]
            maps.append(torch.from_numpy(gaussian_filter(large.cpu().double().numpy(), sigma=4)))
        return routes, torch.stack(scores), torch.stack(maps)


def ours(model: MoLEFlow, paths: list[Path]) -> Answers:
    """Return routes (N), scores (N,) and maps (N, H, W)."""
    scored = model.score(paths)
    return (
        [one.expert for one in scored],
        torch.tensor([one.score for one in scored]),
        torch.stack([one.anomaly_map for one in scored]),
    )


def main(given: Sequence[str] | None = None) -> None:
    """Check, time, print and write."""
    made = parser(__doc__)
    made.set_defaults(repeats=3)
    made.add_argument("--images", type=int, default=6, help="in the batch")
    made.add_argument("--experts", type=int, default=3)
    made.add_argument("--batch", type=int, help="images a forward pass; 1 on a CPU and 32 on a GPU if not given")
    arguments = parse(made, given)
    size = 64 if arguments.smoke else 256
    options = ["backbone.pretrained=false", "router=per_expert_covariance", *(SMOKE if arguments.smoke else ())]
    on_gpu = torch.device(arguments.device).type == "cuda"
    options += [f"features.batch_size={arguments.batch or (32 if on_gpu else 1)}"]

    model = fresh_model(*options, device=arguments.device)
    with tempfile.TemporaryDirectory() as folder:
        features: dict[str, Tensor] = {}
        for kind in range(arguments.experts):
            name = f"product{kind}"
            model.add_expert(name, [name])
            seen = [write_image(Path(folder) / name / f"{i}.png", size, kind, i) for i in range(4)]
            features[name] = model.image_features(model.extractor.features(seen))
            model.register_with_router(name, features[name])
        perturb(model)
        paths = [
            write_image(Path(folder) / f"{i}.png", size, i % arguments.experts, 100 + i)
            for i in range(arguments.images)
        ]
        other = TwoPasses(model, features)
        mine, theirs = ours(model, paths), other(paths)
        routes = [torch.tensor([model.router.names.index(name) for name in answers[0]]) for answers in (mine, theirs)]
        span = float(mine[1].abs().max())
        differences = {
            "routes": agree("routes", *routes, 0.0),
            "scores_relative": agree("scores", mine[1] / span, theirs[1] / span, 1e-4),
            "maps_relative": agree("maps", mine[2] / span, theirs[2] / span, 1e-4),
        }
        times = take_turns(
            {"moleflow": lambda: ours(model, paths), "two passes": lambda: other(paths)},
            arguments.repeats,
            arguments.device,
        )
    rows = compared(times, "two passes")
    for row in rows:
        row["images_per_second"] = arguments.images / row["seconds"]
    show(rows, {"form": "", "seconds": ".2f", "images_per_second": ".2f", "ratio": ".2f"})
    write(arguments.out, {"images": arguments.images, "differences": differences, "rows": rows}, arguments.device)


if __name__ == "__main__":
    main()
