"""Errors in the input or the configuration that the user can correct."""

from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from math import inf

_MAX_NAMES = 20  # of a list in a message


class UserError(Exception):
    """An error in the input or the configuration that the user can correct.

    The message names the wrong value and the remedy. Commands print it without a traceback and exit with status 1.
    """


@contextmanager
def prefix_errors(key: str, names: Collection[str]) -> Iterator[None]:
    """Prefix the messages of ``UserError`` with a config key.

    Classes that are also used without a configuration name only their arguments in messages. With the key of their
    config group, ``size=0 must ...`` becomes ``transform.size=0 must ...``.

    Args:
        key: The config key of the group.
        names: Names of the group's arguments. Only messages that begin with ``<name>=`` are prefixed.

    Raises:
        UserError: With the prefixed message, in place of the original error.
    """
    try:
        yield
    except UserError as error:
        if str(error).partition("=")[0] not in names:
            raise
        raise UserError(f"{key}.{error}") from error


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return ``' Did you mean "x"?'`` for the closest known names, or an empty string.

    Args:
        name: The unknown name.
        known: The existing names.
    """
    matches = get_close_matches(str(name), [str(k) for k in known], n=2, cutoff=0.5)
    return f" Did you mean {' or '.join(repr(m) for m in matches)}?" if matches else ""


def list_names(names: Sequence[object], largest: int = _MAX_NAMES) -> str:
    """Return names separated by commas, and the number of those that are left out.

    Args:
        names: The names, in their order.
        largest: Largest number of names.
    """
    listed = ", ".join(map(str, names[:largest]))
    return listed if len(names) <= largest else f"{listed}, ... and {len(names) - largest} more"


def check_choice(key: str, value: str, choices: Iterable[str]) -> str:
    """Return ``value`` if it is one of ``choices``.

    Args:
        key: Config key or argument name, for the message.
        value: The value to check.
        choices: The allowed values.

    Raises:
        UserError: If the value is not allowed; the message has the closest allowed value and lists the others.
    """
    options = list(choices)
    if value not in options:
        raise UserError(
            f"{key}={value} is unknown.{did_you_mean(value, options)} Choose one of: {list_names(options)}."
        )
    return value


def check_range(
    key: str,
    value: float,
    low: float,
    high: float = inf,
    hint: str = "",
    *,
    low_open: bool = False,
    high_open: bool = False,
) -> None:
    """Raise ``UserError`` unless ``value`` lies between ``low`` and ``high``; NaN never does.

    Args:
        key: Config key or argument name, for the message.
        value: The value to check.
        low: Lower bound, ``-inf`` for none.
        high: Upper bound, ``inf`` for none.
        hint: A sentence that is appended to the message.
        low_open: Exclude the lower bound.
        high_open: Exclude the upper bound; with ``high=inf`` the value has to be finite.

    Raises:
        UserError: If the value is NaN or outside the interval; the message names the interval.
    """
    above = value > low if low_open else value >= low
    below = value < high if high_open else value <= high
    if above and below:
        return
    at_least = f"greater than {low}" if low_open else f"at least {low}"
    if high == inf:
        allowed = f"be {at_least}{' and finite' if high_open else ''}"
    elif low == -inf:
        allowed = f"be {'less than' if high_open else 'at most'} {high}"
    else:
        allowed = f"lie in {'(' if low_open else '['}{low}, {high}{')' if high_open else ']'}"
    raise UserError(f"{key}={value} must {allowed}.{f' {hint}' if hint else ''}")
