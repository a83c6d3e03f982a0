"""Ctrl-C and SIGTERM: the first lets the step finish and saves, the second stops at once."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType


class Stop:
    """Whether a signal asked for the end, and which."""

    def __init__(self) -> None:
        self.signal: int | None = None
        self.listens = False

    def asked(self, number: int, frame: FrameType | None = None) -> None:
        """The handler of both signals."""
        if self.signal is None:
            self.signal = number
            _say(b"lightsr: finishing this step, then saving; once more stops at once\n")
            return
        # Nothing is half-written: every file gets its name when it is whole.
        _say(b"lightsr: stopped at once; the last checkpoint stands\n")
        os._exit(128 + number)

    def listen(self) -> None:
        """Installs the handlers again, after Lightning has put in its own."""
        if self.listens:
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, self.asked)


def _say(line: bytes) -> None:
    with suppress(OSError):  # nobody may be there to read it any more
        os.write(2, line)


@contextmanager
def stopping() -> Iterator[Stop]:
    """A `Stop` that listens in the `with` block; afterwards signals do what they did."""
    stop = Stop()
    stop.listens = threading.current_thread() is threading.main_thread()  # elsewhere Python takes no handlers
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    stop.listen()
    try:
        yield stop
    finally:
        if stop.listens:
            for number, handler in before.items():
                signal.signal(number, handler)


def leave_to_parent(worker: int) -> None:
    """For processes that cut patches: Ctrl-C reaches the whole group, and the training needs them for its last step."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
