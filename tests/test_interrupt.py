"""A request to stop: what leaves the block that it came in, whatever the code between does with it."""

import os
import signal
from collections.abc import Iterator

import pytest

from moleflow.interrupt import SIGNALS, Interrupted, interruptible


@pytest.fixture(autouse=True)
def _heard() -> Iterator[None]:
    """Have no signal ignored, as SIGINT is in what a shell starts in the background."""
    before = {number: signal.signal(number, signal.SIG_DFL) for number in SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def foreign_code() -> None:
    """Be asked to stop inside a call whose errors are turned into others, as code in C may do."""
    try:
        os.kill(os.getpid(), signal.SIGTERM)  # its handler raises right here
    except BaseException:
        raise ValueError("no shape") from None


def test_the_request_leaves_as_itself_though_foreign_code_makes_an_error_of_it() -> None:
    with pytest.raises(Interrupted) as stop, interruptible():
        foreign_code()
    assert stop.value.exit_status == 128 + signal.SIGTERM
    assert isinstance(stop.value.__cause__, ValueError)


def test_further_requests_are_ignored_while_the_first_is_answered() -> None:
    cleaned = []

    def work() -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        finally:
            os.kill(os.getpid(), signal.SIGHUP)
            try:
                raise OSError("in the clean-up")
            except OSError:
                os.kill(os.getpid(), signal.SIGTERM)
            cleaned.append("to its end")

    with pytest.raises(Interrupted) as stop, interruptible():
        work()
    assert stop.value.number == signal.SIGTERM
    assert cleaned


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_second_request_stops_what_the_first_one_did_not() -> None:
    reached = []

    class Finalised:
        def __del__(self) -> None:
            os.kill(os.getpid(), signal.SIGTERM)

    def work() -> None:
        Finalised()
        reached.append("the first was lost")
        os.kill(os.getpid(), signal.SIGTERM)
        reached.append("so was the second")

    with pytest.raises(Interrupted), interruptible():
        work()
    assert reached == ["the first was lost"]


def test_an_error_that_nobody_asked_for_leaves_as_itself() -> None:
    with pytest.raises(ValueError, match="of its own"), interruptible():
        raise ValueError("of its own")


def test_the_handlers_of_before_are_back_afterwards() -> None:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    with pytest.raises(Interrupted), interruptible():
        os.kill(os.getpid(), signal.SIGINT)
    assert {number: signal.getsignal(number) for number in before} == before
