"""Faults that the user can mend, told in one message without a traceback."""

import functools
import os
import select
import sys
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from typing import ParamSpec

P = ParamSpec("P")


class UserError(Exception):
    """A fault in the input or the configuration: the message names the thing and the remedy.

    The command line prints the message alone and ends with exit status 1.
    """


def told(main: Callable[P, int]) -> Callable[P, int]:
    """Make a small command tell what the user can mend in one message, with exit status 1; Ctrl-C ends it with 130.

    Where nobody reads the output to its end (``| head``), it ends quietly with 141, as other commands do.

    ``moleflow.cli.command`` does that for Hydra programs; here nothing is imported, so that small commands start fast.

    Args:
        main: Does the work of a command line and returns the exit status.
    """

    @functools.wraps(main)
    def run(*args: P.args, **kwargs: P.kwargs) -> int:
        try:
            status = main(*args, **kwargs)
            sys.stdout.flush()
            return status
        except UserError as error:
            print(error, file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            print("\ninterrupted", file=sys.stderr)
            return 130
        except BrokenPipeError:
            if not _output_is_closed():
                raise
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes once more at its end
            return 141

    return run


def _output_is_closed() -> bool:
    """Whether standard output is a pipe that nobody reads any more."""
    output = select.poll()
    output.register(sys.stdout.fileno(), 0)
    return bool(output.poll(0))


@contextmanager
def below(key: str, names: Collection[str]) -> Iterator[None]:
    """Name the whole config key in a message that begins with a part of it: ``size=0`` becomes ``transform.size=0``.

    What is used from Python, too, names its arguments alone and does not know where a configuration has them.

    Args:
        key: The config key above.
        names: What it holds.

    Raises:
        UserError: In place of one whose message begins with a name and an equals sign.
    """
    try:
        yield
    except UserError as error:
        if str(error).partition("=")[0] not in names:
            raise
        raise UserError(f"{key}.{error}") from error


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
