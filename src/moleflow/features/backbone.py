"""Frozen timm networks as a function from pictures to patch grids."""

import hashlib
from collections.abc import Callable, Sequence
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moleflow.errors import UserError, choice
from moleflow.features.pooling import PatchPooling
from moleflow.features.weights import build_model

_PROBE_SIZE = 64  # pixels; large enough for a stride of 32


class PatchBackbone(nn.Module):
    """A frozen CNN or ViT of timm whose chosen layers become one vector a patch.

    A CNN's layers are named modules; their maps go through :class:`PatchPooling`, and the grid is the first layer's. A
    ViT's layers are 0-based block numbers; the patch tokens are averaged over the blocks, without a final norm, and the
    class, distillation and register tokens before them are left out. A ViT whose width differs from ``dim`` is reduced
    by the same 1-D adaptive average over channels that the pooling uses: fixed, so that features never depend on a
    draw.

    Always in evaluation mode, without gradients, in float32 even under autocast.

    Args:
        name: timm's name, for example ``wide_resnet50_2.racm_in1k``.
        layers: Module names (CNN) or block numbers (ViT).
        dim: Length ``D`` of a patch's vector.
        pretrained: ``False`` for random weights (tests, benchmarks).
        weights: Where the weights come from, see :func:`~moleflow.features.weights.build_model`.
        mean: Mean of red, green and blue that the weights expect; kept for the transform that reads it.
        std: Standard deviation of red, green and blue, likewise.
        seed: Names the random weights of ``pretrained=False``.

    Raises:
        UserError: If the name or a layer is unknown, or the weights cannot be had.
    """

    def __init__(
        self,
        name: str,
        layers: Sequence[str | int],
        dim: int,
        pretrained: bool = True,
        weights: str | None = None,
        mean: Sequence[float] = (0.485, 0.456, 0.406),
        std: Sequence[float] = (0.229, 0.224, 0.225),
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.name, self.layers, self.dim = name, list(layers), int(dim)
        self.mean, self.std = tuple(mean), tuple(std)
        if not self.layers or len(set(self.layers)) < len(self.layers):
            raise UserError(f"backbone.layers={self.layers}: name at least one layer, and none twice.")
        if dim < 1:
            raise UserError(f"backbone.dim={dim}: give a positive number.")

        def build(**options: Any) -> nn.Module:
            return build_model(name, pretrained, weights, seed, **options)

        self.body: _ConvolutionBody | _TokenBody
        if all(isinstance(layer, int) for layer in self.layers):
            self.body = _TokenBody(name, build, [int(layer) for layer in self.layers], self.dim)
        else:
            self.body = _ConvolutionBody(name, build(), [str(layer) for layer in self.layers], self.dim)
        self.requires_grad_(False)
        self.train()
        self._digest: str | None = None
        self._grids: dict[tuple[int, int], tuple[int, int]] = {}

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode: a trainer that sets its children to training must not unfreeze batch norm."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Return the patch grid of normalised pictures.

        Args:
            images: Shape (B, 3, H, W).

        Returns:
            Float32 tensor of shape (B, h, w, D).

        Raises:
            UserError: If H or W is not a multiple of a ViT's patch.
        """
        with torch.autocast(images.device.type, enabled=False):
            features: Tensor = self.body(images.float())
        return features

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Return rows and columns of the patch grid of a picture of ``height`` x ``width`` pixels."""
        if (height, width) not in self._grids:
            device = next(self.parameters()).device
            h, w = self(torch.zeros(1, 3, height, width, device=device)).shape[1:3]
            self._grids[height, width] = (h, w)
        return self._grids[height, width]

    def spec(self) -> dict[str, object]:
        """Return everything that the features depend on besides the picture's tensor, ready for JSON."""
        if self._digest is None:
            self._digest = _digest(self.body.model)
        return {
            "name": self.name,
            "layers": list(self.layers),
            "dim": self.dim,
            "pooling": "3x3 patches, adaptive average, bilinear, mean of layers",
            "weights_sha256": self._digest,
        }


class _Done(Exception):  # noqa: N818 — no error
    """Raised inside a network once every wanted layer has run, to save the rest."""


class _ConvolutionBody(nn.Module):
    """Feature maps of named modules, pooled."""

    def __init__(self, name: str, model: Any, layers: Sequence[str], dim: int) -> None:
        super().__init__()
        if model.pretrained_cfg.get("fixed_input_size"):
            raise UserError(
                f"backbone.layers={list(layers)} are module names, but {name} is no CNN. "
                "For a ViT give block numbers, for example backbone.layers=[3,7,11]."
            )
        modules = dict(model.named_modules())
        known = [key for key in modules if key and key.count(".") < 2]
        for layer in layers:
            if layer not in modules:
                choice("backbone.layers", layer, known)
        self.model: nn.Module = model.eval()
        self.layers = list(layers)
        with torch.no_grad():
            maps = self._maps(torch.zeros(1, 3, _PROBE_SIZE, _PROBE_SIZE))
        for layer, feature_map in zip(layers, maps, strict=True):
            if feature_map.ndim != 4 or getattr(model, "output_fmt", "NCHW") != "NCHW":
                raise UserError(
                    f"backbone.layers={layer} of {name} gives no feature map (B, C, H, W). "
                    f"Choose among its convolutional stages: {', '.join(known)}."
                )
        self.pooling = PatchPooling([feature_map.shape[1] for feature_map in maps], dim)

    def _maps(self, images: Tensor) -> list[Tensor]:
        """The outputs of the named modules, in the order of the names."""
        maps: dict[str, Tensor] = {}

        def keep(layer: str) -> Callable[[nn.Module, Any, Tensor], None]:
            def hook(module: nn.Module, inputs: Any, output: Tensor) -> None:
                # A copy, as what follows may write into its input: an activation in place does.
                maps[layer] = output.clone()
                if len(maps) == len(self.layers) and not torch.compiler.is_exporting():  # which cuts the rest by itself
                    raise _Done

            return hook

        hooks = [self.model.get_submodule(layer).register_forward_hook(keep(layer)) for layer in self.layers]
        try:
            self.model(images)
            if len(maps) == len(self.layers):
                return [maps[layer] for layer in self.layers]
        except _Done:
            return [maps[layer] for layer in self.layers]
        finally:
            for hook in hooks:
                hook.remove()
        unused = [layer for layer in self.layers if layer not in maps]
        raise UserError(f"backbone.layers={unused} take no part in the network's forward pass. Choose other ones.")

    def forward(self, images: Tensor) -> Tensor:
        pooled: Tensor = self.pooling(self._maps(images))
        return pooled


class _TokenBody(nn.Module):
    """Patch tokens of numbered blocks, averaged."""

    def __init__(self, name: str, build: Callable[..., nn.Module], blocks: Sequence[int], dim: int) -> None:
        super().__init__()
        self.model: Any
        try:
            self.model = build(dynamic_img_size=True)
        except TypeError as error:
            raise UserError(
                f"backbone.layers={list(blocks)} are block numbers, but {name} is no ViT that takes any picture size. "
                "Name modules, for example backbone.layers=[layer2,layer3]."
            ) from error
        depth = len(self.model.blocks)
        for block in blocks:
            if not 0 <= block < depth:
                raise UserError(f"backbone.layers={block}: {name} has the blocks 0 to {depth - 1}.")
        self.name, self.blocks, self.dim = name, list(blocks), dim
        self.patch: tuple[int, int] = tuple(self.model.patch_embed.feat_ratio(as_scalar=False))

    def forward(self, images: Tensor) -> Tensor:
        (height, width), (down, across) = images.shape[-2:], self.patch
        if height % down or width % across:
            smaller, larger = (
                f"[{_multiple(height, down, up)}, {_multiple(width, across, up)}]" for up in (False, True)
            )
            raise UserError(
                f"A picture of {height} x {width} pixels does not divide into the {down} x {across} patches of "
                f"{self.name}. The nearest sizes are transform.size={smaller} and {larger}."
            )
        # timm leaves out model.num_prefix_tokens here, whatever kinds of extra tokens the network has.
        tokens = self.model.forward_intermediates(
            images, indices=self.blocks, norm=False, stop_early=True, output_fmt="NLC", intermediates_only=True
        )
        mean: Tensor = torch.stack(tokens).mean(0)
        if mean.shape[-1] != self.dim:
            mean = F.adaptive_avg_pool1d(mean, self.dim)
        return mean.reshape(-1, height // down, width // across, self.dim)


def _multiple(length: int, step: int, up: bool) -> int:
    """Return the multiple of ``step`` next to ``length``, at least one step."""
    return max(step, (-(-length // step) if up else length // step) * step)


def _digest(model: nn.Module) -> str:
    """SHA-256 over names, types, shapes and bytes of all parameters and buffers that a state dict holds."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
