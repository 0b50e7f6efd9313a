"""Ctrl-C and a cluster's SIGTERM as one exception that unwinds the run."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(BaseException):
    """The process was asked to stop.

    Not a :class:`KeyboardInterrupt`, which Lightning would answer with ``sys.exit(1)``, as if the run had failed.

    Args:
        number: The signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number
        self.exit_status = 128 + number

    def __reduce__(self) -> tuple[type["Interrupted"], tuple[int]]:
        """Return how a parallel job's interruption comes to the process that launched it."""
        return type(self), (self.number,)


@contextmanager
def interruptible() -> Iterator[None]:
    """Raise :class:`Interrupted` at the first signal that asks this process to stop.

    While the run unwinds further requests are ignored, but for a second Ctrl-C, which ends the process at once. One
    that comes after the first was lost (Python ignores what is raised in a finaliser) is raised like the first.
    Signals that are ignored already (``nohup``) stay so. Processes forked inside die of these signals as usual.

    The exception may come up in Python that is called from C, which then raises an error of its own in place of it
    (safetensors does, while it asks a tensor for its shape). Whatever error ends a block that was asked to stop, what
    leaves it is the request.
    """
    asked: list[Interrupted] = []
    owner = os.getpid()
    before = {number: signal.getsignal(number) for number in SIGNALS}
    main = threading.current_thread() is threading.main_thread()  # no other one may handle signals
    mine = [number for number in SIGNALS if main and before[number] is not signal.SIG_IGN]

    def stop(number: int, frame: FrameType | None) -> None:
        if os.getpid() != owner:  # a data loader's worker
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        if _unwinding():
            return
        if signal.SIGINT in mine:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
        asked.append(Interrupted(number))
        raise asked[-1]

    for number in mine:
        signal.signal(number, stop)
    try:
        yield
    except Exception as error:
        if asked:
            raise asked[0] from error
        raise
    finally:
        for number in mine:
            signal.signal(number, before[number])


def _unwinding() -> bool:
    """Return whether this thread is answering a request to stop: in a handler or a clean-up, at any depth."""
    error = sys.exception()
    while error is not None and not isinstance(error, Interrupted):
        error = error.__context__
    return error is not None
