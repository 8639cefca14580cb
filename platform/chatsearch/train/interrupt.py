"""Ctrl-C while Ray Train runs, and after it."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Ctrl-C interrupts inside, and is outside what it was.

    Ray Train handles the signal itself: it lets its workers go and ends the process, with the exit code of one that did all it was to
    do. And it leaves its handler in place for good, so that a service in the same process could not be stopped any more.

    Raises:
        KeyboardInterrupt: in place of the ``SystemExit`` of Ray Train's handler.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # there it handles nothing
        return
    before = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as ended:
        if ended.code == signal.SIGTERM:  # Ray's own handler of that
            raise
        raise KeyboardInterrupt from ended
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler if before is None else before)
