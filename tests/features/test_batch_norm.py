"""Batch normalizations folded into convolutions: equal outputs, and networks that cannot be folded."""

import pytest
import timm
import torch
from timm.layers import StdConv2d
from torch import Tensor, nn

from moleflow.features import backbone as backbone_module
from moleflow.features.backbone import PatchBackbone
from moleflow.features.batch_norm import fold_batch_norms


def random_statistics(model: nn.Module) -> nn.Module:
    """Give all batch normalizations other statistics than those of a new network."""
    draw = torch.Generator().manual_seed(3)
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):
            lowest = {norm.weight: 0.5, norm.bias: -0.5, norm.running_mean: -0.5, norm.running_var: 0.5}
            for tensor, low in lowest.items():
                tensor.data.copy_(low + torch.rand(tensor.shape, generator=draw))
    return model.eval()


IMAGE = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("name", "folded", "remaining"),
    [
        ("resnet18", 20, 0),
        ("tf_efficientnet_lite0", 49, 0),
        ("wide_resnet50_2", 53, 0),
        ("densenet121", 59, 62),  # normalizations of concatenated maps
        ("convnext_atto", 0, 0),
    ],
)
def test_folded_network_has_equal_outputs(name: str, folded: int, remaining: int) -> None:
    model = random_statistics(timm.create_model(name, pretrained=False))
    with torch.no_grad():
        expected = model.forward_features(IMAGE)
        names = fold_batch_norms(model, lambda: model(IMAGE[:1]))
        actual = model.forward_features(IMAGE)
    assert len(names) == folded
    assert sum(isinstance(module, nn.BatchNorm2d) for module in model.modules()) == remaining
    assert (actual - expected).abs().max() <= 1e-4 * expected.abs().max()


class Network(nn.Module):
    """A convolution, its batch normalization, and another convolution."""

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        self.pretrained_cfg: dict[str, object] = {}
        self.convolution, self.norm = convolution, nn.BatchNorm2d(4)
        self.last = nn.Conv2d(4, 4, 1)

    def forward(self, image: Tensor) -> Tensor:
        result: Tensor = self.last(self.norm(self.convolution(image)))
        return result


class OutputUsedTwice(Network):
    def forward(self, image: Tensor) -> Tensor:
        output = self.convolution(image)
        result: Tensor = self.last(self.norm(output) + output)
        return result


class CalledTwice(Network):
    def forward(self, image: Tensor) -> Tensor:
        result: Tensor = self.last(self.norm(self.convolution(image)) + self.norm(self.convolution(2 * image)))
        return result


def features(monkeypatch: pytest.MonkeyPatch, model: nn.Module, layer: str = "last") -> PatchBackbone:
    monkeypatch.setattr(backbone_module, "build_model", lambda *args, **options: model)
    return PatchBackbone("network", [layer], 4, pretrained=False, join="concatenate")


def norms(network: PatchBackbone) -> int:
    return sum(isinstance(module, nn.BatchNorm2d) for module in network.body.model.modules())


@pytest.mark.parametrize(
    ("model", "layer", "remaining"),
    [
        (Network(nn.Conv2d(3, 4, 3, bias=False)), "last", 0),
        (Network(nn.Conv2d(3, 4, 3)), "last", 0),
        (Network(nn.Conv2d(3, 4, 3)), "norm", 0),
        (Network(nn.Conv2d(3, 4, 3)), "convolution", 1),  # its own output is used
        (Network(StdConv2d(3, 4, 3)), "last", 1),  # computes with other weights than its parameter
        (OutputUsedTwice(nn.Conv2d(3, 4, 3)), "last", 1),
        (CalledTwice(nn.Conv2d(3, 4, 3)), "last", 1),
    ],
)
def test_features_are_equal_and_networks_that_cannot_be_folded_remain(
    monkeypatch: pytest.MonkeyPatch, model: nn.Module, layer: str, remaining: int
) -> None:
    random_statistics(model)
    with monkeypatch.context() as patch:
        patch.setattr(backbone_module, "fold_batch_norms", lambda *args: [])
        plain = features(monkeypatch, model, layer)
        assert norms(plain) == 1
        expected = plain(IMAGE)
    folded = features(monkeypatch, model, layer)
    assert norms(folded) == remaining
    torch.testing.assert_close(folded(IMAGE), expected, rtol=1e-5, atol=1e-5)
    assert folded.spec() == plain.spec()
