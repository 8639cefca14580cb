"""A queue that a slow or dead receiver cannot turn into a slow or dead job.

Putting never blocks. One background thread hands over what has gathered, in order, in batches. While the
receiver is unreachable the queue fills up to its bound, then the newest is dropped and counted.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

Item = TypeVar("Item")
logger = logging.getLogger(__name__)

_FIRST_PAUSE_S = 1.0
_LONGEST_PAUSE_S = 30.0


class UnreachableError(Exception):
    """The receiver cannot be reached just now; the same items may be tried again later."""


class Outbox(Generic[Item]):
    """Hands items to ``deliver`` in a background thread.

    ``deliver`` gets a non-empty batch and returns how many of its first items it took (so that a batch
    half taken is not sent twice). It raises :class:`UnreachableError` to be tried again; any other
    exception drops the first item of the batch, with one warning for each kind of exception.
    """

    def __init__(
        self,
        deliver: Callable[[Sequence[Item]], int],
        *,
        name: str,
        capacity: int = 10_000,
        batch_size: int = 500,
        linger_s: float = 0.5,
        describe: Callable[[BaseException], str] = str,
    ) -> None:
        self._deliver = deliver
        self._name = name
        self._capacity = capacity
        self._batch_size = batch_size
        self._linger_s = linger_s
        self._describe = describe
        self._items: deque[Item] = deque()
        self._changed = threading.Condition()
        self._closing = False
        self._abandoned = False
        self._warned: set[str] = set()
        self.num_dropped = 0
        """Items that were not taken: no room, refused, or left when the time at the end was up."""
        self._thread = threading.Thread(target=self._run, name=f"outbox-{name}", daemon=True)
        self._thread.start()

    def put(self, item: Item) -> None:
        """Queue one item; drops it, counted, when the queue is full or closed."""
        with self._changed:
            if self._closing or len(self._items) >= self._capacity:
                self.num_dropped += 1
                full = not self._closing
            else:
                self._items.append(item)
                # Only what the thread waits for wakes it: a switch of threads costs more than the put.
                if len(self._items) in (1, self._batch_size):
                    self._changed.notify()
                return
        if full:
            self._warn("full", f"{self._name}: {self._capacity} entries wait already; newer ones are dropped.")

    def close(self, limit_s: float) -> int:
        """Hand over what is left, for at most ``limit_s`` seconds; returns how many items were never taken."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(limit_s)
        with self._changed:
            self._abandoned = True
            self.num_dropped += len(self._items)
            self._items.clear()
        if self.num_dropped:
            self._warn("lost", f"{self._name}: {self.num_dropped} entries were not recorded.")
        return self.num_dropped

    def _run(self) -> None:
        pause_s = _FIRST_PAUSE_S
        while (batch := self._next_batch()) is not None:
            try:
                taken = self._deliver(batch)
                pause_s = _FIRST_PAUSE_S
            except UnreachableError as error:
                self._warn("unreachable", f"{self._name} cannot be reached; the job goes on. {self._describe(error)}")
                if self._closing:
                    return  # just seen dead and nobody waits for more: what is left is counted by close()
                self._pause(pause_s)
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
                continue
            except Exception as error:  # whatever a tracking client raises must not end the thread
                self._warn(type(error).__name__, f"{self._name} refused an entry. {self._describe(error)}")
                with self._changed:
                    self.num_dropped += 1
                taken = 1
            with self._changed:
                for _ in range(min(taken, len(self._items))):
                    self._items.popleft()

    def _next_batch(self) -> list[Item] | None:
        """Wait for items, and a little longer for company; None when closed and empty."""
        with self._changed:
            while not self._items and not self._closing:
                self._changed.wait()
            end = time.monotonic() + self._linger_s
            while not self._closing and len(self._items) < self._batch_size:
                left_s = end - time.monotonic()
                if left_s <= 0:
                    break
                self._changed.wait(left_s)
            if not self._items or self._abandoned:
                return None
            return [self._items[i] for i in range(min(self._batch_size, len(self._items)))]

    def _pause(self, pause_s: float) -> None:
        """Wait before the next try; closing cuts it short, a put does not."""
        end = time.monotonic() + pause_s
        with self._changed:
            while not self._closing and (left_s := end - time.monotonic()) > 0:
                self._changed.wait(left_s)

    def _warn(self, what: str, message: str) -> None:
        if what not in self._warned:
            self._warned.add(what)
            logger.warning(message)
