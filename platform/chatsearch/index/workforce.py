"""Where pieces of work are done: in this process one after the other, or in Ray tasks side by side.

Functions of a job are written once, against this; results may stay where they were made until another piece needs them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol


class Workforce(Protocol):
    """Does pieces of work. An argument may be what :meth:`start` returned."""

    def start(self, function: Callable[..., Any], *arguments: Any, num_results: int = 1) -> Any:
        """Begin a piece of work.

        Args:
            function: of a module; what it raises comes out of :meth:`results`.
            arguments: of it.
            num_results: how many values its result consists of.

        Returns:
            Its result, or something that stands for it; a list of such where ``num_results`` is not 1.
        """

    def results(self, function: Callable[..., Any], arguments: Iterable[tuple[Any, ...]]) -> Iterator[Any]:
        """Results of one piece of work for each tuple of arguments, in order, each when it is there."""

    def value(self, result: Any) -> Any:
        """The value that something :meth:`start` returned stands for."""


class Here:
    """In this process, at once."""

    def start(self, function: Callable[..., Any], *arguments: Any, num_results: int = 1) -> Any:
        """See :class:`Workforce`."""
        return function(*arguments)

    def results(self, function: Callable[..., Any], arguments: Iterable[tuple[Any, ...]]) -> Iterator[Any]:
        """See :class:`Workforce`."""
        return (function(*some) for some in arguments)

    def value(self, result: Any) -> Any:
        """See :class:`Workforce`."""
        return result
