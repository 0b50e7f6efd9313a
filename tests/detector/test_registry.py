"""Construction of components: every argument is type-checked."""

import pytest

from moleflow.detector.registry import COMPONENTS, _annotations, build_component
from moleflow.utils.errors import UserError

ARGUMENTS = [
    (target, name)
    for target, component in COMPONENTS.items()
    for name, annotation in _annotations(component).items()
    if annotation is not str
]


@pytest.mark.parametrize(("target", "name"), ARGUMENTS)
def test_every_argument_is_type_checked(target: str, name: str) -> None:
    with pytest.raises(UserError, match=rf"^part\.{name}=.* must be "):
        build_component("part", {"_target_": target, name: {"wrong": 1}})
