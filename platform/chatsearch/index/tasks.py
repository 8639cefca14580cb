"""Pieces of work as Ray tasks. One that dies with its worker or node is done again."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import ray

from chatsearch.errors import named_cause

_MAX_RETRIES = 3


@dataclass(frozen=True)
class RayTasks:
    """A :class:`~chatsearch.index.workforce.Workforce` of a running Ray session. Results stay in its object store."""

    num_cpus: float = 1.0
    """Processors that each task asks for."""
    num_gpus: float = 0.0
    """GPUs that it asks for: those it sees."""

    def start(self, function: Callable[..., Any], *arguments: Any, num_results: int = 1) -> Any:
        """See :class:`~chatsearch.index.workforce.Workforce`."""
        task = ray.remote(function).options(
            num_cpus=self.num_cpus,
            num_gpus=self.num_gpus,
            num_returns=num_results,
            max_retries=_MAX_RETRIES,
            name=function.__name__,
        )
        return task.remote(*arguments)

    def results(self, function: Callable[..., Any], arguments: Iterable[tuple[Any, ...]]) -> Iterator[Any]:
        """See :class:`~chatsearch.index.workforce.Workforce`. All are begun before the first is waited for; when one fails, or nobody
        waits any more, the others are cancelled."""
        waiting = [self.start(function, *some) for some in arguments]
        try:
            while waiting:
                yield self.value(waiting.pop(0))
        finally:
            _cancel(waiting)

    def value(self, result: Any) -> Any:
        """See :class:`~chatsearch.index.workforce.Workforce`."""
        try:
            return ray.get(result)
        except ray.exceptions.RayError as error:
            raise named_cause(error) or error from error


def _cancel(waiting: Sequence[Any]) -> None:
    """Give up tasks, but not those that are done: a task whose value has just arrived is for a moment still pending in the driver's
    books, and the driver aborts when it is cancelled then (Ray 2.60, ``Tried to complete task that was not pending``)."""
    if waiting:
        for result in ray.wait(list(waiting), num_returns=len(waiting), timeout=0, fetch_local=False)[1]:
            ray.cancel(result)
