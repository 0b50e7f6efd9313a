"""Tests that the documents list all options, keys and documents that exist."""

import json
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

from helpers.program import CONF, ROOT

OPTIONS = [
    (path.parent.relative_to(CONF).as_posix(), path.stem)
    for path in sorted(CONF.rglob("*.yaml"))
    if path.parent not in (CONF, CONF / "experiment" / "group")  # experiments include the latter; users do not
]


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    """Return the module that generates the configuration reference."""
    sys.path.insert(0, str(ROOT / "docs" / "hooks"))
    try:
        import configuration_reference
    finally:
        sys.path.pop(0)
    return configuration_reference


def test_every_key_has_a_meaning(generator: ModuleType) -> None:
    keys = {key.name: key.meaning for key in generator.file_keys(CONF / "config.yaml")}
    for options in generator.group_keys(CONF).values():
        keys |= {f"{key.name} ({option})": key.meaning for option, entries in options.items() for key in entries}
    missing = [key for key, meaning in keys.items() if not meaning]
    assert not missing, f"add comments to these keys of conf/: {missing}"
    assert len(keys) > 150


def test_every_group_with_a_default_has_a_description(generator: ModuleType) -> None:
    missing = [group for group, (_, description) in generator.defaults_list(CONF).items() if not description]
    assert not missing, f"add comments to these groups in the defaults list of conf/config.yaml: {missing}"


def test_reference_has_every_option_and_key(generator: ModuleType) -> None:
    text = generator.reference(CONF)
    for group, option in OPTIONS:
        named = group in generator.NAMED_GROUPS
        assert (f"| `{option}` |" if named else f"### {group}={option}") in text, f"{group}={option}"
    for row in (
        "| `model.lora_rank` | `64` | <code>int</code> |",
        "| `epochs` | `60` | <code>int</code> | epochs per task |",
    ):
        assert row in text
    assert "### backbone=resnet18\n\nResNet-18.\n\nBased on `backbone=wide_resnet50_2`; sets " in text


def test_keys_of_a_file(generator: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(
        "# Of the file.\n_target_: a.B\na: 1 # one\n# of two lines,\n# both for b\nb: [1, '#'] \n"
        "c: # of the mapping\n  d: null\n  e: 'x # y' # own\n"
    )
    assert [(key.name, key.default, key.meaning) for key in generator.file_keys(path)] == [
        ("a", "1", "one"), ("b", "[1, '#']", "of two lines, both for b"), ("c.d", "null", "of the mapping"),
        ("c.e", "'x # y'", "own"),
    ]  # fmt: skip


def test_readme_lists_every_document_once() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8").split("## Documents")[1]
    listed = re.findall(r"\]\((docs/[^)#]+)\)", readme)
    documents = [*(ROOT / "docs").glob("*.md"), *(ROOT / "docs").glob("*.ipynb")]
    assert sorted(listed) == sorted(f"docs/{path.name}" for path in documents)


def test_notebook_is_stored_without_outputs() -> None:
    notebook = json.loads((ROOT / "docs" / "tutorial.ipynb").read_text(encoding="utf-8"))
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in notebook["cells"])
