"""Tests that the documents list all options, keys and documents that exist."""

import re

import pytest

from helpers.program import CONF, ROOT
from moleflow.catalogue.entries import entries

TEXT = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
OPTIONS = [
    (path.parent.relative_to(CONF).as_posix(), path.stem)
    for path in sorted(CONF.rglob("*.yaml"))
    if path.parent not in (CONF, CONF / "experiment" / "group")  # experiments include the latter; users do not
]


@pytest.mark.parametrize("group", sorted({group for group, _ in OPTIONS}))
def test_configuration_lists_every_option_of_a_group(group: str) -> None:
    rows = re.findall(rf"^\| `(?:-m )?\+?{group}` \|(.*)$", TEXT, re.M)
    assert len(rows) == 1, f"docs/configuration.md lists the group {group} {len(rows)} times"
    listed = set(re.findall(r"`([^` ]+)`", rows[0].split("|")[0]))
    options = {option for option_group, option in OPTIONS if option_group == group}
    if group == "experiment":  # too many for a table; the command `moleflow catalogue` lists them
        options -= {entry.name for entry in entries(CONF) if entry.group}
    assert options <= listed, f"docs/configuration.md lacks {sorted(options - listed)} in the row of {group}"
    assert group == "experiment" or listed <= options, f"conf/{group} has no {sorted(listed - options)}"


def test_configuration_explains_every_top_level_key() -> None:
    keys = re.findall(r"^(\w+):", (CONF / "config.yaml").read_text(encoding="utf-8"), re.M)
    missing = [key for key in keys if key not in ("defaults", "hydra") and f"`{key}" not in TEXT]
    assert not missing, f"docs/configuration.md does not explain {missing}"


def test_readme_lists_every_document_once() -> None:
    listed = re.findall(r"^\* `(docs/[^`]+)`", (ROOT / "README.md").read_text(encoding="utf-8"), re.M)
    assert sorted(listed) == sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))
