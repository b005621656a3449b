"""Ctrl-C that is pressed where Python drops the exception."""

from __future__ import annotations

import signal
import threading

import pytest

from prosg.utils.interrupts import Interrupts, noting_interrupts


class Dropping:
    """Ctrl-C comes while this is finalized."""

    def __del__(self) -> None:
        signal.raise_signal(signal.SIGINT)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_what_a_finalizer_drops_is_raised_at_the_next_check() -> None:
    before = signal.getsignal(signal.SIGINT)
    with noting_interrupts() as interrupts:
        interrupts.check()
        Dropping()
        with pytest.raises(KeyboardInterrupt):
            interrupts.check()
    assert signal.getsignal(signal.SIGINT) is before


def test_elsewhere_it_is_raised_at_once() -> None:
    with noting_interrupts() as interrupts:
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        assert interrupts.pressed


def test_in_another_thread_nothing_is_changed() -> None:
    seen: list[Interrupts] = []

    def run() -> None:
        with noting_interrupts() as interrupts:
            interrupts.check()
            seen.append(interrupts)

    before = signal.getsignal(signal.SIGINT)
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert len(seen) == 1 and signal.getsignal(signal.SIGINT) is before
