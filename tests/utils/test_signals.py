"""Interruption by signals: the exception that leaves the block, nested signals and restored handlers."""

import os
import pickle
import signal
from collections.abc import Iterator

import pytest

from moleflow.utils.signals import SIGNALS, Interrupted, interruptible


@pytest.fixture(autouse=True)
def _default_handlers() -> Iterator[None]:
    """Reset ignored signals: a shell ignores SIGINT in the processes that it starts in the background."""
    handlers = {number: signal.signal(number, signal.SIG_DFL) for number in SIGNALS}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


def replace_interruption() -> None:
    """Receive a signal inside a call that replaces exceptions by its own, as C extensions do."""
    try:
        os.kill(os.getpid(), signal.SIGTERM)  # the handler raises here
    except BaseException:
        raise ValueError("no shape") from None


def test_the_block_raises_interrupted_although_other_code_replaced_it() -> None:
    with pytest.raises(Interrupted) as error, interruptible():
        replace_interruption()
    assert error.value.exit_status == 128 + signal.SIGTERM
    assert isinstance(error.value.__cause__, ValueError)


def test_further_signals_are_ignored_while_the_first_is_handled() -> None:
    cleaned = []

    def work() -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        finally:
            os.kill(os.getpid(), signal.SIGHUP)
            try:
                raise OSError("during clean-up")
            except OSError:
                os.kill(os.getpid(), signal.SIGTERM)
            cleaned.append("completely")

    with pytest.raises(Interrupted) as error, interruptible():
        work()
    assert error.value.number == signal.SIGTERM
    assert cleaned


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_second_signal_raises_if_the_first_exception_was_lost() -> None:
    reached = []

    class Finalized:
        def __del__(self) -> None:
            os.kill(os.getpid(), signal.SIGTERM)

    def work() -> None:
        Finalized()
        reached.append("first lost")
        os.kill(os.getpid(), signal.SIGTERM)
        reached.append("second lost")

    with pytest.raises(Interrupted), interruptible():
        work()
    assert reached == ["first lost"]


def test_other_errors_are_not_changed() -> None:
    with pytest.raises(ValueError, match="other"), interruptible():
        raise ValueError("other")


def test_former_handlers_are_restored() -> None:
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    with pytest.raises(Interrupted), interruptible():
        os.kill(os.getpid(), signal.SIGINT)
    assert {number: signal.getsignal(number) for number in handlers} == handlers


def test_an_ignored_signal_stays_ignored() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with interruptible():
        os.kill(os.getpid(), signal.SIGHUP)


def test_an_interruption_survives_pickling() -> None:
    restored = pickle.loads(pickle.dumps(Interrupted(signal.SIGTERM)))
    assert (restored.number, restored.exit_status, str(restored)) == (signal.SIGTERM, 143, "SIGTERM")
