"""Frozen timm networks that map images to patch grids."""

import copy
import hashlib
import inspect
from collections.abc import Callable, Sequence
from threading import get_ident
from typing import Any, Self

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moleflow.features.batch_norm import fold_batch_norms
from moleflow.features.patch_pooling import LayerConcatenation, PatchPooling
from moleflow.features.weights import build_model
from moleflow.utils.errors import UserError, check_choice, check_range, list_names

_PROBE_SIZE = 64  # side in pixels of the image that determines the layers' shapes; enough for a stride of 32
_FOLDING_TOLERANCE = 1e-4  # of the largest value of a layer; rounding is 1e-6

JOINS = ("pooled", "concatenate")
_JOIN_SPECS = {
    "pooled": "3x3 patches, adaptive average, bilinear, mean of layers",
    "concatenate": "3x3 average, bilinear, concatenation of layers",
}


class PatchBackbone(nn.Module):
    """A frozen CNN or ViT of timm that returns one feature vector per patch.

    The layers of a CNN are module names; their feature maps are joined on the grid of the first layer, by
    :class:`PatchPooling` or by :class:`LayerConcatenation`. The layers of a ViT are 0-based block numbers; the patch
    tokens are averaged over the blocks or concatenated, without the final norm and without class, distillation and
    register tokens. If the width of a ViT differs from ``dim``, its averaged channels are reduced by the same 1-D
    adaptive average as in the pooling, so that features never depend on random numbers.

    The network is always in evaluation mode, without gradients, and in float32 even under autocast.

    Args:
        name: Name of the network in timm, for example ``wide_resnet50_2.racm_in1k``.
        layers: Module names (CNN) or block numbers (ViT).
        dim: Length ``D`` of a patch feature.
        join: ``pooled``, or ``concatenate`` for all channels of all layers, whose number is then ``dim``.
        pretrained: ``False`` for random weights (tests and benchmarks).
        weights: Source of the weights, see :func:`~moleflow.features.weights.build_model`.
        mean: Mean of red, green and blue that the weights expect, for the transform.
        std: Standard deviation of red, green and blue that the weights expect, for the transform.
        seed: Seed of the random weights.

    Raises:
        UserError: If the name or a layer is unknown, ``dim`` is too small or not the number of concatenated channels,
            or the weights are not available.
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
        join: str = "pooled",
    ) -> None:
        super().__init__()
        self.join = check_choice("backbone.join", join, JOINS)
        self.name, self.layers, self.dim = name, list(layers), int(dim)
        self.mean, self.std = tuple(mean), tuple(std)
        if not self.layers or len(set(self.layers)) < len(self.layers):
            raise UserError(f"backbone.layers={self.layers} must contain at least one layer, and each only once.")
        check_range("backbone.dim", dim, 1)

        def build(**options: Any) -> nn.Module:
            model = build_model(name, pretrained, weights, seed, **options)
            if _has_values(model):
                self._digest = _digest(model)
            return model

        self.body: _CNNFeatures | _ViTFeatures
        if all(isinstance(layer, int) for layer in self.layers):
            self.body = _ViTFeatures(name, build, [int(layer) for layer in self.layers], self.dim, join)
        else:
            self.body = _CNNFeatures(name, build(), [str(layer) for layer in self.layers], self.dim, join)
        self.requires_grad_(False)
        self.train()
        self._grids: dict[tuple[int, int], tuple[int, int]] = {}

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode, also if a parent module is set to training mode."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Return the patch grids of normalized images.

        Args:
            images: (B, 3, H, W).

        Returns:
            Float32 tensor (B, h, w, D).

        Raises:
            UserError: If H or W is not a multiple of a ViT's patch size.
        """
        with torch.autocast(images.device.type, enabled=False):
            features: Tensor = self.body(images.float())
        return features

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Return rows and columns of the patch grid of an image of ``height`` x ``width`` pixels.

        Raises:
            UserError: If height or width is not a multiple of a ViT's patch size, or a layer returns fewer than 2 x 2
                patches.
        """
        if (height, width) not in self._grids:
            device = next(self.parameters()).device
            self.body.check_size(height, width)
            h, w = self(torch.zeros(1, 3, height, width, device=device)).shape[1:3]
            self._grids[height, width] = (h, w)
        return self._grids[height, width]

    @property
    def stride(self) -> tuple[int, int]:
        """Height and width in pixels of which the sides of an image should be multiples.

        The patch of a ViT; of a CNN the largest stride of the layers, so that the grids of all layers are aligned.
        """
        return self.body.stride

    def spec(self) -> dict[str, object]:
        """Return all settings that the features depend on besides the image tensor, as JSON types."""
        return {
            "name": self.name,
            "layers": list(self.layers),
            "dim": self.dim,
            "pooling": _JOIN_SPECS[self.join],
            "weights_sha256": self._digest,
        }


class _StopForward(Exception):  # noqa: N818 - not an error
    """Raised in a forward pass after the last of the requested layers, so that the remaining layers are skipped."""


class _CNNFeatures(nn.Module):
    """Joined feature maps of named modules."""

    def __init__(self, name: str, model: Any, layers: Sequence[str], dim: int, join: str) -> None:
        super().__init__()
        if model.pretrained_cfg.get("fixed_input_size"):
            if not _has_blocks(model):
                raise _unsupported(name)
            raise UserError(
                f"backbone.layers={list(layers)} are module names, but {name} is a ViT. Use its block numbers, "
                f"0 to {len(model.blocks) - 1}, for example backbone.layers=[{len(model.blocks) // 2}]."
            )
        modules = dict(model.named_modules())
        choices = [key for key in modules if key and key.count(".") < 2]
        for layer in layers:
            if layer not in modules:
                check_choice("backbone.layers", layer, choices)
        self.model: nn.Module = model.eval()
        self.name = name
        self.layers = list(layers)
        with torch.no_grad():
            maps = self._maps(torch.zeros(1, 3, _PROBE_SIZE, _PROBE_SIZE))
        for layer, feature_map in zip(layers, maps, strict=True):
            if not _is_feature_map(feature_map) or getattr(model, "output_fmt", "NCHW") != "NCHW":
                raise UserError(
                    f"backbone.layers={layer} of {name} does not return a feature map (B, C, H, W). "
                    f"These layers do: {list_names(_feature_map_layers(model, choices))}."
                )
        self.stride = (max(_PROBE_SIZE // min(feature_map.shape[2:]) for feature_map in maps),) * 2
        channels = [feature_map.shape[1] for feature_map in maps]
        self.pooling: nn.Module
        if join == "concatenate":
            _check_concatenated_dim(dim, layers, channels)
            self.pooling = LayerConcatenation()
        else:
            self.pooling = PatchPooling(channels, dim)
        if _has_values(self.model):
            self._fold_batch_norms()
        if any(
            isinstance(module, nn.Conv2d) and 1 < module.groups == module.in_channels for module in modules.values()
        ):
            # Depthwise convolutions of EfficientNet-Lite0 are a fifth faster; the features change by 1e-7 (relative).
            self.model.to(memory_format=torch.channels_last)

    @torch.no_grad()
    def _fold_batch_norms(self) -> None:
        """Fold the batch normalizations into the convolutions, unless this changes the features."""
        original = self.model
        image = torch.randn(1, 3, _PROBE_SIZE, _PROBE_SIZE, generator=torch.Generator().manual_seed(0))
        maps = self._maps(image)
        self.model = copy.deepcopy(original)
        fold_batch_norms(self.model, lambda: self._maps(image), self.layers)
        for before, after in zip(maps, self._maps(image), strict=True):
            if not (after - before).abs().max() <= _FOLDING_TOLERANCE * before.abs().max():
                self.model = original
                return

    def _maps(self, images: Tensor) -> list[Tensor]:
        """Return the outputs of the named modules, in the order of the names. Several threads may call it at a time."""
        maps: dict[str, Tensor] = {}
        thread = get_ident()

        def store_output(layer: str) -> Callable[[nn.Module, Any, Tensor], None]:
            def hook(module: nn.Module, inputs: Any, output: Tensor) -> None:
                if get_ident() != thread:
                    return
                # A copy, because the next module may be an in-place activation.
                maps[layer] = output.clone() if isinstance(output, Tensor) else output
                # An export removes unused layers itself.
                if len(maps) == len(self.layers) and not torch.compiler.is_exporting():
                    raise _StopForward

            return hook

        hooks = [self.model.get_submodule(layer).register_forward_hook(store_output(layer)) for layer in self.layers]
        try:
            self.model(images)
            if len(maps) == len(self.layers):
                return [maps[layer] for layer in self.layers]
        except _StopForward:
            return [maps[layer] for layer in self.layers]
        finally:
            for hook in hooks:
                hook.remove()
        unused = [layer for layer in self.layers if layer not in maps]
        raise UserError(f"backbone.layers={unused} are not part of the network's forward pass. Choose other layers.")

    @torch.no_grad()
    def check_size(self, height: int, width: int) -> None:
        """Check that every layer returns at least 2 x 2 patches.

        Raises:
            UserError: If a layer returns fewer: its feature map would be constant over the image.
        """
        device = next(self.model.parameters()).device
        for layer, feature_map in zip(
            self.layers, self._maps(torch.zeros(1, 3, height, width, device=device)), strict=True
        ):
            rows, columns = feature_map.shape[2:]
            if min(rows, columns) < 2:
                smallest = (2 * self.stride[0], 2 * self.stride[1])
                raise _too_small(height, width, f"layer {layer} of {self.name}", (rows, columns), smallest)

    def forward(self, images: Tensor) -> Tensor:
        """Return the patch grid (B, h, w, D) of images (B, 3, H, W)."""
        pooled: Tensor = self.pooling(self._maps(images))
        return pooled


class _ViTFeatures(nn.Module):
    """Patch tokens of several blocks, averaged or concatenated."""

    def __init__(self, name: str, build: Callable[..., nn.Module], blocks: Sequence[int], dim: int, join: str) -> None:
        super().__init__()
        self.model: Any
        try:
            self.model = build(dynamic_img_size=True)
        except TypeError as error:
            config = timm.get_pretrained_cfg(name, allow_unregistered=False)
            if config is not None and config.fixed_input_size:
                raise _unsupported(name) from error
            raise UserError(
                f"backbone.layers={list(blocks)} are block numbers, but {name} is not a ViT. Use names of its modules, "
                "as backbone.layers=[layer2,layer3] of resnet18."
            ) from error
        if not _has_blocks(self.model):
            raise _unsupported(name)
        depth = len(self.model.blocks)
        for block in blocks:
            if not 0 <= block < depth:
                raise UserError(f"backbone.layers={block} must be a block of {name}: 0 to {depth - 1}.")
        self.name, self.blocks, self.dim, self.join = name, list(blocks), dim, join
        if join == "concatenate":
            _check_concatenated_dim(dim, blocks, [self.model.embed_dim] * len(blocks))
        self.stride: tuple[int, int] = tuple(self.model.patch_embed.feat_ratio(as_scalar=False))

    def check_size(self, height: int, width: int) -> None:
        """Check that an image has at least 2 x 2 patches.

        Raises:
            UserError: If it has fewer.
        """
        down, across = self.stride
        if height % down == width % across == 0 and min(height // down, width // across) < 2:
            grid = (height // down, width // across)
            raise _too_small(height, width, self.name, grid, (2 * down, 2 * across))

    def forward(self, images: Tensor) -> Tensor:
        """Return the patch grid (B, h, w, D) of images (B, 3, H, W)."""
        (height, width), (down, across) = images.shape[-2:], self.stride
        if height % down or width % across:
            smaller, larger = (
                f"[{_multiple(height, down, up)}, {_multiple(width, across, up)}]" for up in (False, True)
            )
            raise UserError(
                f"transform.size=[{height}, {width}] must be a multiple of the {down} x {across} patches of "
                f"{self.name}. The nearest sizes are transform.size={smaller} and {larger}."
            )
        # timm removes all prefix tokens (class, distillation, registers) here.
        tokens = self.model.forward_intermediates(
            images, indices=self.blocks, norm=False, stop_early=True, output_fmt="NLC", intermediates_only=True
        )
        joined: Tensor = torch.cat(tokens, -1) if self.join == "concatenate" else torch.stack(tokens).mean(0)
        if joined.shape[-1] != self.dim:
            joined = F.adaptive_avg_pool1d(joined, self.dim)
        return joined.reshape(-1, height // down, width // across, self.dim)


def _check_concatenated_dim(dim: int, layers: Sequence[str | int], channels: Sequence[int]) -> None:
    """Check that ``dim`` is the number of channels of all layers.

    Raises:
        UserError: If it is not.
    """
    if dim != sum(channels):
        parts = " + ".join(f"{count} of {layer}" for layer, count in zip(layers, channels, strict=True))
        raise UserError(
            f"backbone.dim={dim} must be the number of channels of all layers with backbone.join=concatenate: "
            f"backbone.dim={sum(channels)} ({parts})."
        )


def _has_blocks(model: nn.Module) -> bool:
    """Return whether a network is a ViT for images of any size, whose blocks return tokens of one grid."""
    initializers = (vars(cls).get("__init__") for cls in type(model).__mro__)
    dynamic = any("dynamic_img_size" in inspect.signature(init).parameters for init in initializers if init)
    return dynamic and hasattr(model, "blocks") and hasattr(model, "forward_intermediates")


def _is_feature_map(output: object) -> bool:
    """Return whether the output of a module is a tensor (B, C, H, W)."""
    return isinstance(output, Tensor) and output.ndim == 4


def _feature_map_layers(model: nn.Module, layers: Sequence[str]) -> list[str]:
    """Return those of the layers that return feature maps, in the order of the forward pass."""
    found: dict[str, None] = {}

    def hook_of(layer: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            if _is_feature_map(output) and min(output.shape[2:]) > 1:
                found[layer] = None

        return hook

    hooks = [model.get_submodule(layer).register_forward_hook(hook_of(layer)) for layer in layers]
    try:
        with torch.no_grad():
            model(torch.zeros(1, 3, _PROBE_SIZE, _PROBE_SIZE))
    finally:
        for hook in hooks:
            hook.remove()
    return list(found)


def _unsupported(name: str) -> UserError:
    """Return the error for a network that is neither a CNN nor a plain ViT."""
    return UserError(
        f"backbone.name={name} is not supported: it takes images of one size only, and it is no ViT whose blocks "
        "return one grid of tokens. Use a CNN with backbone.layers=[module names], such as backbone=wide_resnet50_2, "
        "or a plain ViT with backbone.layers=[block numbers], such as backbone=vit_base_augreg."
    )


def _too_small(height: int, width: int, layer: str, grid: tuple[int, int], smallest: tuple[int, int]) -> UserError:
    """Return the error for an image size at which a layer returns fewer than 2 x 2 patches."""
    size = smallest[0] if smallest[0] == smallest[1] else list(smallest)
    return UserError(
        f"transform.size=[{height}, {width}] is too small: {layer} returns {grid[0]} x {grid[1]} patches. "
        f"Use transform.size={size} or more."
    )


def _multiple(length: int, step: int, up: bool) -> int:
    """Return ``length`` rounded up or down to a multiple of ``step``, at least one step."""
    return max(step, (-(-length // step) if up else length // step) * step)


def _has_values(model: nn.Module) -> bool:
    """Return whether the tensors of a network have values; on the meta device they have only shapes."""
    return not any(parameter.is_meta for parameter in model.parameters())


def _digest(model: nn.Module) -> str:
    """Return the SHA-256 digest of names, types, shapes and bytes of all tensors in the state dict."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
