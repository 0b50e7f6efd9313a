"""Independence of the process from the terminal's encoding, displays and undecodable file names."""

import io
import os
import sys


def prepare_process() -> None:
    """Make output and figures of this process and its children independent of its environment.

    Characters that the encoding of standard output lacks are escaped, instead of ending the process. Matplotlib's
    backend is one without a display: the value of a notebook in ``MPLBACKEND`` is an error where its package is not
    installed.
    """
    os.environ["MPLBACKEND"] = "agg"
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")


def escape_undecodable(text: str) -> str:
    r"""Return a text in which bytes that are not UTF-8 are escaped, such as ``\xc7``.

    Python represents such bytes of file names by lone surrogates, which no file in UTF-8 can hold.
    """
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
