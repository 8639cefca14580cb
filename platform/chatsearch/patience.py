"""Waiting for an object store that has gone away: it is asked again for a while, and that is said."""

from __future__ import annotations

import errno
import logging
import math
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from chatsearch.errors import ChatSearchError, StorageError, UnreachableStoreError
from chatsearch.storage import is_remote

_LASTING = {errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EPERM}
_DENIED = "ACCESS_DENIED"
"""As the client of S3 names it."""
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 15.0

T = TypeVar("T")
logger = logging.getLogger(__name__)


class Patience:
    """How long calls on an object store are made again. A local path has none: what fails there is not going to come back.

    Each failing call takes its time already, since the client of S3 tries three times by itself.

    Args:
        uri: where the calls go.
        seconds: from a call's first failure on; ``math.inf`` until :meth:`end_in` is called.
        say: takes what people should know.
    """

    def __init__(self, uri: str, seconds: float, say: Callable[[str], None] = logger.warning) -> None:
        self._uri, self._seconds, self._say = uri, seconds, say
        self._end: float | None = None
        self._told_at = -math.inf
        self._changed = threading.Event()

    def end_in(self, seconds: float) -> None:
        """From now on so many seconds are left, for a call that another thread is making too. After the try that is under way it gets
        one more at least."""
        self._told_at = time.monotonic()
        self._end = self._told_at + seconds
        self._changed.set()

    def insist(self, call: Callable[[], T]) -> T:
        """What ``call`` returns, which must do no harm when it is made several times.

        Raises:
            UnreachableStoreError: the store has not answered for all that time.
            ChatSearchError: any other error of the call, at once.
        """
        since: float | None = None
        pause = _FIRST_PAUSE_S
        while True:
            begun = time.monotonic()
            try:
                result = call()
            except (StorageError, OSError) as error:
                now = time.monotonic()
                if not is_remote(self._uri) or isinstance(error, UnreachableStoreError) or _is_lasting(error):
                    raise
                if since is None:
                    since = now
                    self._say(f"{_sentence(error)} It is asked again.")
                left = (since + self._seconds if self._end is None else self._end) - now
                if left <= 0 and begun >= self._told_at:
                    raise UnreachableStoreError(
                        f"{_sentence(error)} It was asked again for {now - since:.0f} s; store_patience_s says how long."
                    ) from error
            else:
                if since is not None:
                    self._say(f"{self._uri} answers again, after {time.monotonic() - since:.0f} s")
                return result
            if self._changed.wait(min(pause, max(left, 0.0))):
                self._changed.clear()
            pause = min(2 * pause, _LONGEST_PAUSE_S)


def _is_lasting(error: BaseException | None) -> bool:
    """Whether it would fail the same way again: a local disk that is full or read-only, or what one may not do."""
    while error is not None:
        if isinstance(error, FileNotFoundError) or getattr(error, "errno", None) in _LASTING or _DENIED in str(error):
            return True
        error = error.__cause__
    return False


def _sentence(error: Exception) -> str:
    if isinstance(error, ChatSearchError):
        return str(error)
    return f"The object store failed: {type(error).__name__}: {' '.join(str(error).split())[:300]}."
