"""Every shipped backbone is a network of timm with the statistics that its weights expect, and its layers exist."""

from pathlib import Path

import pytest
import timm
import torch
from omegaconf import OmegaConf

from moleflow.features import PatchBackbone

FILES = sorted((Path(__file__).parents[2] / "conf" / "backbone").glob("*.yaml"))
GRIDS = {"vit_base_augreg": 14, "dinov2_base": 16, "dinov3_base": 14}  # rows at 224 pixels; 28 for a CNN


def test_all_are_found() -> None:
    assert {"wide_resnet50_2", "vit_base_augreg", "efficientnet_lite0", "dinov2_base"} <= {f.stem for f in FILES}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_shipped_backbone(file: Path) -> None:
    conf = OmegaConf.to_container(OmegaConf.load(file))
    assert isinstance(conf, dict)
    assert conf.pop("_target_") == f"{PatchBackbone.__module__.rpartition('.')[0]}.PatchBackbone"
    assert conf["pretrained"] is True
    assert conf["dim"] % 4 == 0
    known = timm.get_pretrained_cfg(conf["name"])
    assert known.hf_hub_id
    if file.stem != "vit_base_augreg":
        assert (tuple(conf["mean"]), tuple(conf["std"])) == (known.mean, known.std)
    side = 7 * 16 * 2  # of pixels: divides into patches of 14 and of 16
    # The meta device has shapes and no numbers: nothing large is drawn or multiplied.
    with torch.device("meta"):
        network = PatchBackbone(**(conf | {"pretrained": False}))
        features = network.body(torch.rand(1, 3, side, 2 * side))
    rows = GRIDS.get(file.stem, 28)
    assert features.shape == (1, rows, 2 * rows, conf["dim"])
    assert network.mean == tuple(conf["mean"])
    assert network.std == tuple(conf["std"])
