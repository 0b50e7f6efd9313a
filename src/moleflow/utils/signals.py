"""One exception for Ctrl-C, SIGTERM and SIGHUP, so that an interrupted run can clean up."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(BaseException):
    """A signal that requests the process to stop.

    It does not derive from :class:`KeyboardInterrupt`, which Lightning converts to ``sys.exit(1)``, the status of a
    failed run.

    Args:
        number: Number of the signal.

    Attributes:
        exit_status: The shell's exit status of a process that the signal ended, 128 + ``number``.
    """

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number
        self.exit_status = 128 + number

    def __reduce__(self) -> tuple[type["Interrupted"], tuple[int]]:
        """Return the arguments for unpickling: a parallel job's exception is pickled for the launching process."""
        return type(self), (self.number,)


@contextmanager
def interruptible() -> Iterator[None]:
    """Raise :class:`Interrupted` in this block at the first SIGINT, SIGTERM or SIGHUP.

    * While the exception is handled, further signals are ignored, except that a second Ctrl-C ends the process.
    * If the first exception was lost (Python ignores exceptions in finalizers), the next signal raises again.
    * Signals that the process ignores already (``nohup``) stay ignored.
    * In processes forked inside the block, the signals have their default action.
    * If code between the signal and the end of the block replaces :class:`Interrupted` by another exception, as
      C extensions do (safetensors, while it reads a tensor's shape), the block still raises :class:`Interrupted`.

    In any thread but the main one, where Python allows no signal handlers, this does nothing.

    Raises:
        Interrupted: At a signal.
    """
    interruptions: list[Interrupted] = []
    process = os.getpid()
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    is_main = threading.current_thread() is threading.main_thread()
    handled = [number for number in SIGNALS if is_main and handlers[number] is not signal.SIG_IGN]

    def interrupt(number: int, frame: FrameType | None) -> None:
        if os.getpid() != process:  # a forked data loader worker
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        if _is_handling_interruption():
            return
        if signal.SIGINT in handled:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
        interruptions.append(Interrupted(number))
        raise interruptions[-1]

    for number in handled:
        signal.signal(number, interrupt)
    try:
        yield
    except Exception as error:
        if interruptions:
            raise interruptions[0] from error
        raise
    finally:
        for number in handled:
            signal.signal(number, handlers[number])


def _is_handling_interruption() -> bool:
    """Return whether this thread is in an ``except`` or ``finally`` block of an ``Interrupted``, at any depth."""
    error = sys.exception()
    while error is not None and not isinstance(error, Interrupted):
        error = error.__context__
    return error is not None
