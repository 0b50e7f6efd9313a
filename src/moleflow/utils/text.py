"""Texts for display: escaped names from files, and nouns with their number."""

import re
import unicodedata

_INVISIBLE = re.compile(
    r"[^\S \n\u00a0\u202f]|[\x00-\x09\x0b-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufeff\ud800-\udfff]"
)
"""Control characters except the line feed, unusual spaces, characters that change the direction of text, surrogates."""

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udc7f\udd00-\udfff]")
"""Control characters, and surrogates that stand for no byte of a file name."""

_FORMULA_STARTS = ("=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20")  # the last four are full-width forms


def has_control_characters(text: str) -> bool:
    """Return whether a text has control characters, or lone surrogates that no file name can have."""
    return _CONTROL.search(text) is not None


def printable(text: str) -> str:
    r"""Return a text in which control characters and lone surrogates are escaped, such as ``\x1b``.

    Line feeds remain, and unusual spaces become spaces. In a terminal, a control sequence in a name could change
    colors, the title or earlier output; a lone surrogate cannot be encoded as UTF-8.
    """
    return _INVISIBLE.sub(lambda match: _escape(match[0]), text)


def spreadsheet_text(text: str) -> str:
    """Return a text that no spreadsheet executes: one that begins like a formula gets a leading apostrophe."""
    line = printable(text)
    return f"'{line}" if line.lstrip().startswith(_FORMULA_STARTS) else line


def one_line(text: str, length: int = 0) -> str:
    """Return a text as :func:`printable` on a single line.

    Args:
        text: The text.
        length: Number of characters after which it is cut, with an ellipsis; 0 for any length.
    """
    line = " ".join(printable(text).split("\n"))
    return line if not length or len(line) <= length else f"{line[: length - 1]}…"


def count_text(number: int, noun: str) -> str:
    """Return a number and its noun, in the plural unless the number is 1."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _escape(character: str) -> str:
    if unicodedata.category(character) == "Zs":
        return " "
    return character.encode("unicode_escape", "surrogatepass").decode()
