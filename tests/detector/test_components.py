"""Tests of the construction of postprocessors and the check of overrides of experts."""

from typing import Any

import pytest
import torch

from helpers.detectors import small_settings
from moleflow.detector.components import ComponentFactory, resolve_device
from moleflow.utils.errors import UserError

CPU = torch.device("cpu")


def build(*overrides: str) -> ComponentFactory:
    return ComponentFactory(small_settings(*overrides), None, 0, CPU)


def test_postprocessor_has_the_overrides() -> None:
    components = build()
    assert components.postprocessor({}).aggregation == "top_k"
    assert components.postprocessor({"scoring": {"aggregation": "max", "pool": 3}}).pool == 3
    assert components.postprocessor({"scoring": {"top_k": 90}, "transform": {"size": 96}}).top_k == 90
    with pytest.raises(UserError, match=r"^scoring\.top_k=90 is more than the 64 patches"):
        components.postprocessor({"scoring": {"top_k": 90}})


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"scoring": {"top_k": 90}}, r"^per_category\.screw\.scoring\.top_k=90 is more"),
        ({"model": {"adapter": "wite"}}, r"^per_category\.screw\.model\.adapter=wite is unknown"),
        ({"transform": {"size": 0}}, r"^per_category\.screw\.transform\.size=0 must"),
    ],
)
def test_check_names_the_key_of_the_overrides(overrides: dict[str, Any], message: str) -> None:
    build().check({"epochs": 3}, "per_category.screw")
    with pytest.raises(UserError, match=message):
        build().check(overrides, "per_category.screw")


def test_device_is_checked() -> None:
    assert resolve_device("cpu") == CPU
    for device in ("cuda:99", "gpu"):
        with pytest.raises(UserError, match=f"device={device} cannot be used: .* Use device=cpu"):
            resolve_device(device)
