"""Construction of components: every argument is type-checked."""

from typing import Any

import pytest

from moleflow.detector.registry import COMPONENTS, LIMITS, ROLES, build_component, check_component, parameters
from moleflow.utils.errors import UserError

ARGUMENTS = [(target, name) for target, component in COMPONENTS.items() for name in parameters(component)]


@pytest.mark.parametrize(("target", "name"), ARGUMENTS)
def test_every_argument_is_type_checked(target: str, name: str) -> None:
    with pytest.raises(UserError, match=rf"^part\.{name}=.* must be "):
        build_component("part", {"_target_": target, name: {"wrong": 1}})


def test_every_limit_belongs_to_an_argument() -> None:
    for key in LIMITS:
        role, _, name = key.partition(".")
        assert any(name in parameters(c) for c in COMPONENTS.values() if issubclass(c, ROLES[role]))  # type: ignore[arg-type]


PATCHCORE = "moleflow.models.closed_form.patchcore.PatchCore"


@pytest.mark.parametrize(
    ("key", "settings", "message"),
    [
        ("model", [], r"model=\[\] must map _target_"),
        ("model", {"_target_": ["x"]}, r"model\._target_=\['x'\] is not allowed"),
        ("transform", {"_target_": PATCHCORE, "dim": 8}, r"transform\._target_=.* is not allowed\. Allowed: \S+form\."),
        ("model", {"_target_": PATCHCORE}, r"model lacks dim\."),
        ("sets.a.model", {"_target_": PATCHCORE, "dim": 10**9}, r"a\.model\.dim=1000000000 must be at most 16384"),
    ],
)
def test_settings_of_another_structure_are_errors(key: str, settings: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_component(key, settings)
