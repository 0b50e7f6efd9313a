"""Backbones with random weights: layers, grids, evaluation mode and invalid arguments."""

from pathlib import Path

import pytest
import timm
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn

from moleflow.features.backbone import PatchBackbone
from moleflow.features.patch_pooling import PatchPooling
from moleflow.utils.errors import UserError


def image(height: int, width: int, count: int = 1) -> torch.Tensor:
    return torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(1))


def backbone(name: str, layers: list[str | int], dim: int) -> PatchBackbone:
    return PatchBackbone(name, layers, dim, pretrained=False)


@pytest.mark.parametrize(
    ("name", "layers", "size", "grid"),
    [
        ("resnet18", ["layer2", "layer3"], (64, 96), (8, 12)),
        ("tf_efficientnet_lite0", ["blocks.2", "blocks.4"], (70, 64), (9, 8)),
        ("convnext_atto", ["stages.1", "stages.2"], (64, 64), (8, 8)),
        ("vit_tiny_patch16_224", [1, 3], (64, 48), (4, 3)),
        ("deit_tiny_distilled_patch16_224", [0, 2], (32, 48), (2, 3)),  # class and distillation token
        ("vit_small_patch14_reg4_dinov2", [1], (42, 28), (3, 2)),  # class and four register tokens, patch 14
        ("vit_small_patch16_dinov3", [1, 2], (32, 64), (2, 4)),  # rotary positions
    ],
)
def test_grid_of_cnns_and_vits(
    name: str, layers: list[str | int], size: tuple[int, int], grid: tuple[int, int]
) -> None:
    network = backbone(name, layers, 24)
    features = network(image(*size, count=2))
    assert features.shape == (2, *grid, 24)
    assert features.dtype == torch.float32
    assert features.isfinite().all()
    assert features.std() > 0
    assert network.grid(*size) == grid


def test_layers_of_a_cnn_are_the_named_modules() -> None:
    network = backbone("resnet18", ["layer2", "layer3"], 48)
    model = network.body.model
    images = image(64, 64)
    with torch.no_grad():
        stem = model.maxpool(model.act1(model.bn1(model.conv1(images))))
        second = model.layer2(model.layer1(stem))
        third = model.layer3(second)
    expected = PatchPooling([128, 256], 48)([second, third])
    torch.testing.assert_close(network(images), expected, rtol=0, atol=0)


def test_first_layer_determines_the_grid() -> None:
    assert backbone("resnet18", ["layer3", "layer2"], 16).grid(64, 64) == (4, 4)


def test_forward_pass_stops_after_the_last_layer() -> None:
    network = backbone("resnet18", ["layer1", "layer2"], 16)
    calls: list[str] = []
    for name in ("layer2", "layer3"):
        getattr(network.body.model, name).register_forward_pre_hook(lambda *_, name=name: calls.append(name))
    network(image(64, 64))
    assert calls == ["layer2"]


def test_in_place_activation_does_not_change_the_layer_before_it() -> None:
    network = backbone("resnet18", ["bn1", "layer1"], 16)  # bn1 is followed by an in-place ReLU
    model = network.body.model
    images = image(32, 32)
    with torch.no_grad():
        first = model.bn1(model.conv1(images))
        second = model.layer1(model.maxpool(model.act1(first.clone())))
    assert first.min() < 0
    torch.testing.assert_close(network(images), PatchPooling([64, 64], 16)([first, second]))


def test_tokens_are_block_outputs_without_prefix_tokens() -> None:
    network = backbone("vit_tiny_patch16_224", [1, 3], 192)
    model = network.body.model
    images = image(224, 224)
    with torch.no_grad():
        tokens = model.norm_pre(model._pos_embed(model.patch_embed(images)))
        outputs = []
        for block in model.blocks[:4]:
            tokens = block(tokens)
            outputs.append(tokens[:, 1:])
    expected = ((outputs[1] + outputs[3]) / 2).view(1, 14, 14, 192)
    torch.testing.assert_close(network(images), expected, rtol=1e-6, atol=1e-6)


def test_other_token_width_is_an_adaptive_average() -> None:
    images = image(32, 32)
    full = backbone("vit_tiny_patch16_224", [2], 192)(images)
    reduced = backbone("vit_tiny_patch16_224", [2], 80)(images)
    torch.testing.assert_close(reduced, F.adaptive_avg_pool1d(full.flatten(1, 2), 80).view(1, 2, 2, 80))


def test_frozen_inside_a_module_in_training_mode() -> None:
    parent = nn.Sequential(backbone("resnet18", ["layer1"], 16))
    parent.train()
    before = {name: tensor.clone() for name, tensor in parent.state_dict().items()}
    features = parent(image(64, 64))
    assert not features.requires_grad
    assert not any(module.training for module in parent[0].modules())
    assert not any(parameter.requires_grad for parameter in parent.parameters())
    for name, tensor in parent.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_float32_under_autocast() -> None:
    network = backbone("resnet18", ["layer1"], 16)
    images = image(64, 64)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = network(images)
    assert torch.equal(inside, network(images))


def test_spec_differs_for_each_setting() -> None:
    plain = backbone("resnet18", ["layer1"], 16)
    spec = plain.spec()
    assert spec == backbone("resnet18", ["layer1"], 16).spec()
    others = [
        backbone("resnet18", ["layer2"], 16),
        backbone("resnet18", ["layer1"], 20),
        PatchBackbone("resnet18", ["layer1"], 16, pretrained=False, seed=1),
    ]
    assert all(other.spec() != spec for other in others)


def test_spec_depends_on_every_weight(tmp_path: Path) -> None:
    model = timm.create_model("resnet18", pretrained=False)
    specs = []
    for file in ("before.safetensors", "after.safetensors"):
        save_file(model.state_dict(), tmp_path / file)
        specs.append(PatchBackbone("resnet18", ["layer1"], 16, weights=str(tmp_path / file)).spec())
        model.bn1.running_var[3] += 1
    assert specs[0] != specs[1]


@pytest.mark.parametrize(
    ("name", "layers", "message"),
    [
        ("wide_resnet50_3", ["layer2"], "wide_resnet50_3 must be a network of timm.*Did you mean.*wide_resnet50_2"),
        ("resnet18.racm_in1k", ["layer2"], r"resnet18.racm_in1k must be a network.*resnet18\.a._in1k"),
        ("resnet18", ["layer5"], "backbone.layers=layer5 is unknown. Did you mean.*layer1"),
        ("resnet18", ["fc"], "are not part of|fc of resnet18 does not return a feature map"),
        ("resnet18", [2], "are block numbers, but resnet18 is not a ViT"),
        ("resnet18", [], r"backbone.layers=\[\] must contain at least one layer"),
        ("resnet18", ["layer1", "layer1"], "each only once"),
        ("vit_tiny_patch16_224", [12], "backbone.layers=12 must be a block of vit_tiny_patch16_224: 0 to 11"),
    ],
)
def test_invalid_name_or_layer_raises(name: str, layers: list[str | int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        backbone(name, layers, 16)


def test_module_name_for_a_vit_raises() -> None:
    with pytest.raises(UserError, match=r"vit_tiny_patch16_224 is a ViT\. Use its block numbers, 0 to 11"):
        backbone("vit_tiny_patch16_224", ["blocks.3"], 16)


@pytest.mark.parametrize("layers", [["stages.1"], [1]])
@pytest.mark.parametrize(
    "name", ["maxvit_nano_rw_256", "beit_base_patch16_224", "hiera_tiny_224", "swin_tiny_patch4_window7_224"]
)
def test_network_that_is_neither_cnn_nor_plain_vit_raises_one_error(name: str, layers: list[str | int]) -> None:
    with pytest.raises(UserError, match=f"backbone.name={name} is not supported: .*backbone=wide_resnet50_2"):
        backbone(name, layers, 16)


@pytest.mark.parametrize(
    ("name", "layer", "working"), [("hrnet_w18_small", "stage2", "layer1"), ("selecsls42b", "features.1", "stem")]
)
def test_layer_that_returns_a_list_raises_with_the_layers_that_return_maps(name: str, layer: str, working: str) -> None:
    message = f"backbone.layers={layer} of {name} does not return a feature map .*These layers do: .*{working}"
    with pytest.raises(UserError, match=message):
        backbone(name, [layer], 16)
    assert backbone(name, [working], 16).grid(64, 64) >= (2, 2)


@pytest.mark.parametrize(
    ("name", "layers", "size", "smallest"),
    [
        ("resnet18", ["layer2", "layer3"], 10, 32),
        ("resnet18", ["layer1"], 4, 8),
        ("vit_tiny_patch16_224", [1], 16, 32),
    ],
)
def test_image_size_below_2_x_2_patches_raises(name: str, layers: list[str | int], size: int, smallest: int) -> None:
    network = backbone(name, layers, 16)
    with pytest.raises(
        UserError, match=rf"transform.size=\[{size}, {size}\] is too small: .*Use transform.size={smallest} or more\."
    ):
        network.grid(size, size)
    assert min(network.grid(smallest, smallest)) >= 2


def test_image_size_that_is_no_multiple_of_the_patch_size_raises() -> None:
    network = backbone("vit_small_patch14_dinov2", [0], 16)
    with pytest.raises(
        UserError, match=r"transform.size=\[224, 230\] .*14 x 14 patches.*\[224, 224\] and \[224, 238\]"
    ):
        network(image(224, 230))
    with pytest.raises(UserError, match="patches"):
        network.grid(220, 224)


@pytest.mark.parametrize("name", ["wide_resnet50_2.racm_in1k", "tf_efficientnet_lite0.in1k"])
def test_names_of_default_backbones_exist(name: str) -> None:
    assert name in timm.list_pretrained()


def test_concatenated_features_have_the_channels_of_all_layers() -> None:
    network = PatchBackbone("resnet18", ["layer2", "layer3"], 384, pretrained=False, join="concatenate")
    single = [PatchBackbone("resnet18", [layer], dim, pretrained=False, join="concatenate")(image(64, 96))
              for layer, dim in (("layer2", 128), ("layer3", 256))]  # fmt: skip
    features = network(image(64, 96))
    assert features.shape == (1, 8, 12, 384)
    torch.testing.assert_close(features[..., :128], single[0])
    coarse = F.interpolate(single[1].permute(0, 3, 1, 2), size=(8, 12), mode="bilinear", align_corners=False)
    torch.testing.assert_close(features[..., 128:], coarse.permute(0, 2, 3, 1))
    assert network.spec() != backbone("resnet18", ["layer2", "layer3"], 384).spec()


def test_concatenated_blocks_of_a_vit() -> None:
    networks = [PatchBackbone("vit_tiny_patch16_224", blocks, dim, pretrained=False, join="concatenate")
                for blocks, dim in (([1, 3], 384), ([1], 192), ([3], 192))]  # fmt: skip
    both, first, second = (network(image(32, 48)) for network in networks)
    torch.testing.assert_close(both, torch.cat([first, second], -1))


@pytest.mark.parametrize(
    ("name", "layers", "message"),
    [
        ("resnet18", ["layer2", "layer3"], r"backbone\.dim=384 \(128 of layer2 \+ 256 of layer3\)"),
        ("vit_tiny_patch16_224", [1, 3], r"backbone\.dim=384 \(192 of 1 \+ 192 of 3\)"),
    ],
)
def test_dim_of_concatenated_layers_is_checked(name: str, layers: list[str | int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        PatchBackbone(name, layers, 128, pretrained=False, join="concatenate")


def test_unknown_join_is_an_error() -> None:
    with pytest.raises(UserError, match=r"backbone\.join=concat is unknown"):
        PatchBackbone("resnet18", ["layer2"], 128, pretrained=False, join="concat")


@pytest.mark.parametrize(
    ("name", "layers", "stride"),
    [("resnet18", ["layer2", "layer3"], 16), ("resnet18", ["layer2"], 8), ("vit_tiny_patch16_224", [1], 16)],
)
def test_stride_is_that_of_the_coarsest_layer(name: str, layers: list[str | int], stride: int) -> None:
    assert backbone(name, layers, 16).stride == (stride, stride)


def test_memory_format_of_depthwise_networks_changes_features_by_rounding_only() -> None:
    network = backbone("test_efficientnet", ["blocks.1", "blocks.2"], 16)
    weights = [parameter for parameter in network.body.model.parameters() if parameter.ndim == 4]
    assert any(not weight.is_contiguous() for weight in weights)
    images, spec = image(64, 96, count=2), network.spec()
    features = network(images)
    network.body.model.to(memory_format=torch.contiguous_format)
    assert all(weight.is_contiguous() for weight in weights)
    torch.testing.assert_close(network(images), features, rtol=1e-5, atol=1e-6)
    assert network.spec() == spec
