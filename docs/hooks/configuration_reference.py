"""Configuration reference: each key of ``conf/`` with its default, its type and the meaning in its comment."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape
from importlib import import_module
from inspect import signature
from pathlib import Path
from typing import Any

import yaml

from moleflow.experiment.conf import group_options, read_config_file, read_description

NAMED_GROUPS = {
    "experiment": "Complete configurations (`+experiment=NAME`). `moleflow catalogue` lists the recorded ones.",
    "ablation": "The method without one component, or with other shared parts (`+ablation=NAME`).",
    "sweep": "Several runs of one command (`-m +sweep=NAME`). A sweep with the name of a key varies that key.",
}
"""Groups without a default, whose options set keys of other groups, with their descriptions."""

PLUGIN_GROUPS = {
    "hydra/launcher": "Where the jobs of several runs are started; without an option, one after another (`basic`).",
    "hydra/sweeper": "How the values of several runs are selected; without an option, all combinations (`basic`).",
    "hydra/sweeper/sampler": "Selects the values of the trials of `hydra/sweeper=optuna`.",
    "hydra/sweeper/pruner": "Ends trials of `hydra/sweeper=optuna` early.",
}
"""Groups of Hydra that moleflow adds options to, with their descriptions."""

_INTRODUCTION = """\
# Configuration reference

Every group and key of `conf/`, generated from its files: `group=option` selects a file, `key=value` sets a key. The
default option of a group comes first. An option without a table has the keys of the option that it is based on, and
sets the listed values. [Configuration](configuration.md) explains how the keys work together.
"""


@dataclass(frozen=True)
class Key:
    """A key of a configuration file.

    Attributes:
        name: Dotted key.
        default: Its value, as written in the file.
        meaning: Its comment.
    """

    name: str
    default: str
    meaning: str


def file_keys(path: Path) -> list[Key]:
    """Return the keys of a configuration file in their order, without ``defaults``, targets and other ``_keys_``.

    The meaning of a key is the comment behind it, else the comment in the lines before it; of keys of a mapping
    without comments of their own, that of the mapping. The comment at the start of a file describes the file.

    Args:
        path: The file.
    """
    text = path.read_text(encoding="utf-8")
    lines = text.splitlines()
    node = yaml.compose(text)
    header = next((number for number, line in enumerate(lines) if not line.startswith("#")), len(lines))
    return [] if node is None else list(_node_keys(node, lines, header, "", ""))


def _node_keys(node: Any, lines: Sequence[str], header: int, prefix: str, inherited: str) -> Iterator[Key]:
    for key, value in node.value:
        name = f"{prefix}{key.value}"
        if name == "defaults" or (key.value.startswith("_") and key.value.endswith("_")):
            continue
        is_block = isinstance(value, yaml.MappingNode) and not value.flow_style
        end = key.end_mark if is_block else value.end_mark
        trailing = re.search(r"(?:^|\s)# *(.*)$", lines[end.line][end.column :]) if end.line < len(lines) else None
        meaning = trailing[1].strip() if trailing else _comment_before(lines, key.start_mark.line, header)
        if is_block:
            yield from _node_keys(value, lines, header, f"{name}.", meaning or inherited)
        else:
            default = " ".join("".join(_source(lines, value)).split())
            yield Key(name, default, meaning or inherited)


def _comment_before(lines: Sequence[str], line: int, header: int) -> str:
    """Return the comment in the lines before a line, below the header of the file."""
    start = line
    while start > header and lines[start - 1].lstrip().startswith("#"):
        start -= 1
    return " ".join(text.strip().lstrip("#").strip() for text in lines[start:line])


def _source(lines: Sequence[str], node: Any) -> Iterator[str]:
    """Yield the lines of a node without comments."""
    start, end = node.start_mark, node.end_mark
    for number in range(start.line, end.line + 1):
        first = start.column if number == start.line else 0
        last = end.column if number == end.line else None
        yield (lines[number][first:last] if number < len(lines) else "") + " "


def group_keys(conf: Path) -> dict[str, dict[str, list[Key]]]:
    """Return the keys of each option by group, except those of named groups; the default option is the first.

    A key without a comment gets the meaning that it has in the default option, else in another option of the group,
    else in the group that defines it.

    Args:
        conf: The configuration folder.
    """
    groups = group_options([conf])
    keys: dict[str, dict[str, list[Key]]] = {}
    defaults = {group: default for group, (default, _) in defaults_list(conf).items()} | dict.fromkeys(
        PLUGIN_GROUPS, ""
    )
    for group, default in sorted(defaults.items()):
        files = groups[group]
        prefix = f"{group.replace('/', '.')}."
        keys[group] = {
            option: _with_prefix(file_keys(files[option]), "" if _is_global(files[option]) else prefix)
            for option in sorted(files, key=lambda name: (name != default, name))
        }
    meanings = {key.name: key.meaning for key in file_keys(conf / "config.yaml")}
    for key in (key for options in keys.values() for entries in options.values() for key in entries):
        if key.meaning:
            meanings.setdefault(key.name, key.meaning)
    return {
        group: {
            option: [replace(key, meaning=key.meaning or meanings.get(key.name, "")) for key in entries]
            for option, entries in options.items()
        }
        for group, options in keys.items()
    }


def _with_prefix(keys: Sequence[Key], prefix: str) -> list[Key]:
    return [replace(key, name=f"{prefix}{key.name}") for key in keys]


def _is_global(path: Path) -> bool:
    return "# @package _global_" in path.read_text(encoding="utf-8")


def defaults_list(conf: Path) -> dict[str, tuple[str, str]]:
    """Return the default option of each group and the group's description, the comment in the defaults list."""
    pattern = re.compile(r"^  - (\w+): (\S+)(?: +# *(.*))?$", re.M)
    return {m[1]: (m[2], m[3] or "") for m in pattern.finditer((conf / "config.yaml").read_text(encoding="utf-8"))}


def reference(conf: Path) -> str:
    """Return the configuration reference as Markdown."""
    files = group_options([conf])
    parts = [_INTRODUCTION, "## Top-level keys\n", _key_table(file_keys(conf / "config.yaml"), {})]
    keys = group_keys(conf)
    described = defaults_list(conf) | {group: ("", description) for group, description in PLUGIN_GROUPS.items()}
    for group, (default, description) in sorted(described.items()):
        parts.append(f"## {group}\n\n{_sentence(description)}\n")
        for option, path in sorted(files[group].items(), key=lambda item: (item[0] != default, item[0])):
            parts.append(f"### {group}={option}{' (default)' if option == default else ''}\n")
            parts += _option(group, path, keys[group])
    for group, description in NAMED_GROUPS.items():
        rows = [f"| `{name}` | {_prose(read_description(path))} |" for name, path in files[group].items()]
        parts.append("\n".join([f"## {group}\n\n{description}\n", "| option | content |", "|---|---|", *rows, ""]))
    return "\n".join(parts)


def _option(group: str, path: Path, keys: Mapping[str, Sequence[Key]]) -> Iterator[str]:
    """Yield the description of an option, the values in which it differs from its bases, and the table of its keys.

    Args:
        group: The group of the option.
        path: The file of the option.
        keys: The keys of all options of the group; the default option is the first.
    """
    content, default = read_config_file(path), next(iter(keys))
    if description := read_description(path):
        yield f"{_prose(description)}\n"
    bases = list(_bases(path))
    target = content.get("_target_")
    if not bases and path.stem != default and target and target == _target(path.with_name(f"{default}.yaml")):
        bases = [default]
    inherited = {key.name: key for base in bases for key in keys[base]}
    changes = (
        [f"class `{target}`"] if bases and target and target != _target(path.with_name(f"{bases[0]}.yaml")) else []
    )
    own = file_keys(path)
    for key, comment in zip(keys[path.stem], own, strict=True):
        if key.name in inherited and key.default != inherited[key.name].default:
            changes.append(f"`{key.name}={key.default}`" + (f" ({_prose(comment.meaning)})" if comment.meaning else ""))
    if bases:
        yield f"Based on `{group}={bases[0]}`" + (f"; sets {', '.join(changes)}.\n" if changes else ".\n")
    elif target:
        yield f"Class: `{target}`\n"
    if table := [key for key in keys[path.stem] if key.name not in inherited]:
        yield _key_table(table, _annotations(content, group))


def _bases(path: Path) -> Iterator[str]:
    """Yield the options of the same group that an option is based on, the nearest one first."""
    for entry in read_config_file(path).get("defaults", ()):
        if isinstance(entry, str) and entry != "_self_":
            base = entry.split("@")[0]
            yield base
            yield from _bases(path.with_name(f"{base}.yaml"))


def _target(path: Path) -> Any:
    return read_config_file(path).get("_target_")


def _annotations(content: Mapping[str, Any], prefix: str) -> dict[str, str]:
    """Return the types of the arguments of this package's targets by dotted key."""
    types: dict[str, str] = {}
    target = content.get("_target_")
    if isinstance(target, str) and target.startswith("moleflow."):
        module, _, name = target.rpartition(".")
        component = getattr(import_module(module), name)
        for cls in reversed(component.__mro__ if isinstance(component, type) else (component,)):
            if cls is object:
                continue
            for parameter in signature(cls).parameters.values():
                if parameter.annotation is not parameter.empty:
                    types[f"{prefix}.{parameter.name}"] = _type_name(parameter.annotation)
    for key, value in content.items():
        if isinstance(value, dict):
            types |= _annotations(value, f"{prefix}.{key}")
    return types


def _type_name(annotation: Any) -> str:
    if isinstance(annotation, type):
        return annotation.__name__
    return re.sub(r"\b(?:\w+\.)+(\w+)", r"\1", str(annotation)).replace("NoneType", "None")


def _key_table(keys: Sequence[Key], types: Mapping[str, str]) -> str:
    rows = ["| key | default | type | meaning |", "|---|---|---|---|"]
    for key in keys:
        type_name = _cell(types.get(key.name) or _type_of(key.default))
        rows.append(f"| `{key.name}` | `{key.default}` | {type_name} | {_prose(key.meaning)} |")
    return "\n".join([*rows, ""])


def _type_of(default: str) -> str:
    """Return the type of a value, empty if it is null or a reference, whose type the file does not contain."""
    value = yaml.safe_load(default.replace("1.0e", "1.0e+").replace("+-", "-").replace("++", "+"))
    if value is None or (isinstance(value, str) and value.startswith("${")):
        return ""
    return type(value).__name__


def _cell(text: str) -> str:
    """Return a type as code; a vertical bar between backquotes would end the cell or keep its backslash."""
    return f"<code>{escape(text).replace('|', '&#124;')}</code>" if text else ""


def _prose(text: str) -> str:
    """Return a comment as Markdown: documents become links, and table separators are escaped."""
    text = re.sub(r"docs/([\w-]+)\.md", r"[\1](\1.md)", text)
    return re.sub(r"(?<![`\w])([<>])", r"\\\1", text).replace("|", "\\|")


def _sentence(text: str) -> str:
    text = _prose(text)
    return f"{text[:1].upper()}{text[1:].rstrip('.')}." if text else ""
