"""Documents, docstrings, comments and messages contain none of the words that the glossary excludes."""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = {
    "documents": ["*.md", "docs/*.md"],
    "conf": ["conf/**/*.yaml"],
    "src": ["src/**/*.py", "train.py", "docs/hooks/*.py"],
    "tests": ["tests/**/*.py"],
    "benchmarks": ["benchmarks/*.py"],
}
_CODE = re.compile(r"``[^`]*``|`[^`]*`|\S*(?:[_.=]\w|/)\S*")
"""Code between backquotes, paths, dotted names, names with an underscore, overrides."""
_MESSAGE_WORDS = 4  # strings with fewer words are names rather than messages


def excluded_words() -> list[str]:
    """Return the first column of the last table of the glossary."""
    text = (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8").split("## Words that are not used")[1]
    return [word for row in re.findall(r"^\| (`.*?) \|", text, re.M) for word in re.findall("`([^`]+)`", row)]


def word_pattern(words: list[str]) -> re.Pattern[str]:
    """Return a pattern that matches the words and their plurals; ``*`` stands for any ending."""
    endings = [re.escape(word[:-1]) + r"\w*" if word.endswith("*") else re.escape(word) + "s?" for word in words]
    return re.compile(r"\b(" + "|".join(endings).replace(r"\ ", r"\s+") + r")\b", re.IGNORECASE)


@cache
def glossary_pattern() -> re.Pattern[str]:
    return word_pattern(excluded_words())


def find_words(path: Path, pattern: re.Pattern[str]) -> Iterator[tuple[int, str]]:
    """Yield line number and word of each match in the prose of a file, outside of code."""
    for start, text in prose(path):
        without_code = _CODE.sub(lambda code: re.sub(r"[^\n]", " ", code[0]), text)
        for match in pattern.finditer(without_code):
            yield start + text[: match.start()].count("\n"), match[0]


def prose(path: Path) -> Iterator[tuple[int, str]]:
    """Yield first line and text of each part of a file that is prose."""
    content = path.read_text(encoding="utf-8")
    lines = content.splitlines()
    if path.suffix == ".py":
        yield from _python_prose(content)
    elif path.suffix == ".yaml":
        yield from ((number, line.partition("#")[2]) for number, line in enumerate(lines, 1))
    else:
        yield 1, "\n".join("" if is_code else line for line, is_code in zip(lines, _code_lines(lines), strict=True))


def _python_prose(content: str) -> Iterator[tuple[int, str]]:
    """Yield docstrings, messages and comments."""
    for node in ast.walk(ast.parse(content)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and len(node.value.split()) >= _MESSAGE_WORDS:
            yield node.lineno, node.value
    for token in tokenize.generate_tokens(io.StringIO(content).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string


def _code_lines(lines: list[str]) -> Iterator[bool]:
    """Yield for each line of a Markdown document whether it belongs to a block of code."""
    fenced = False
    for line in lines:
        fence = line.startswith("```")
        yield fence or fenced or line.startswith("    ")
        fenced ^= fence


@pytest.mark.parametrize("area", FILES)
def test_prose_has_no_excluded_word(area: str) -> None:
    paths = sorted({path for pattern in FILES[area] for path in ROOT.glob(pattern)})
    assert paths
    matches = [
        f"{path.relative_to(ROOT)}:{line}: {word!r}"
        for path in paths
        for line, word in find_words(path, glossary_pattern())
    ]
    assert not matches, "docs/glossary.md has the replacements of:\n" + "\n".join(matches)


def test_words_are_found_in_all_kinds_of_prose(tmp_path: Path) -> None:
    contents = {
        "a.py": '"""Return one gadget or more."""\n\nx = "gadget"  # two Gadgets\ny = f"a {x} of one gadget more"\n',
        "b.md": "A\ngadget.\n\n    gadget --out\n\n| a gadget |\n\n```\ngadget\n```\nin `gadgets/`, a/gadget\n",
        "c.yaml": "gadgets: 1 # of a gadget\n",
    }
    lines = {}
    for name, content in contents.items():
        (tmp_path / name).write_text(content)
        lines[name] = [line for line, _ in find_words(tmp_path / name, word_pattern(["gadget"]))]
    assert lines == {"a.py": [1, 4, 3], "b.md": [2, 6], "c.yaml": [1]}


def test_a_phrase_may_span_lines_and_a_star_is_any_ending() -> None:
    pattern = word_pattern(["one of them", "gadg*"])
    assert pattern.findall("only one\n  of them, gadgetry") == ["one\n  of them", "gadgetry"]
    assert not pattern.findall("gad")
