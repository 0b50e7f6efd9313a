"""The configurations in conf/backbone: networks of timm with existing layers and the normalization of their weights."""

from pathlib import Path

import pytest
import timm
import torch
from omegaconf import OmegaConf

from moleflow.features.backbone import PatchBackbone

FILES = sorted((Path(__file__).parents[2] / "conf" / "backbone").glob("*.yaml"))
# Rows at 224 pixels; 28 for a CNN.
GRIDS = {"vit_base_augreg": 14, "dinov2_base": 16, "dinov2_small": 16, "dinov3_base": 14}


def test_files_exist() -> None:
    assert {"wide_resnet50_2", "vit_base_augreg", "efficientnet_lite0", "dinov2_base"} <= {f.stem for f in FILES}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_backbone_configuration(file: Path) -> None:
    loaded = OmegaConf.load(file)
    bases = [OmegaConf.load(file.with_stem(base)) for base in loaded.pop("defaults", [])]
    conf = OmegaConf.to_container(OmegaConf.merge(*bases, loaded))
    assert isinstance(conf, dict)
    assert conf.pop("_target_") == "moleflow.features.backbone.PatchBackbone"
    assert conf["pretrained"] is True
    assert conf["dim"] % 4 == 0
    pretrained = timm.get_pretrained_cfg(conf["name"])
    assert pretrained.hf_hub_id
    if file.stem != "vit_base_augreg":
        assert (tuple(conf["mean"]), tuple(conf["std"])) == (pretrained.mean, pretrained.std)
    side = 7 * 16 * 2  # pixels; a multiple of the patch sizes 14 and 16
    # Tensors on the meta device have no values, so that large networks take no memory.
    with torch.device("meta"):
        network = PatchBackbone(**(conf | {"pretrained": False}))
        features = network.body(torch.rand(1, 3, side, 2 * side))
    rows = GRIDS.get(file.stem, 28)
    assert features.shape == (1, rows, 2 * rows, conf["dim"])
    assert network.mean == tuple(conf["mean"])
    assert network.std == tuple(conf["std"])
