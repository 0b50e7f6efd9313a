"""Faults that the user can mend, told in one message without a traceback."""

from collections.abc import Iterable
from difflib import get_close_matches


class UserError(Exception):
    """A fault in the input or the configuration: the message names the thing and the remedy.

    The command line prints the message alone and ends with exit status 1.
    """


def nearest(name: str, known: Iterable[str]) -> str:
    """Return ``' Did you mean "x"?'`` for the closest known names, or an empty string.

    Args:
        name: What was asked for.
        known: What exists.
    """
    matches = get_close_matches(str(name), [str(k) for k in known], n=2, cutoff=0.5)
    return f" Did you mean {' or '.join(repr(m) for m in matches)}?" if matches else ""


def choice(what: str, value: str, known: Iterable[str]) -> str:
    """Return ``value`` if it is one of ``known``.

    Args:
        what: The config key or argument, for the message.
        value: The value given.
        known: The values allowed.

    Raises:
        UserError: If the value is not known; the message lists the allowed ones and the nearest.
    """
    options = list(known)
    if value not in options:
        raise UserError(f"{what}={value} is unknown. Choose one of: {', '.join(options)}.{nearest(value, options)}")
    return value
