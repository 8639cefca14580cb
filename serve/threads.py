"""Generators that block, run for an event loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Generator
from typing import TypeVar

Item = TypeVar("Item")


async def iterate_in_thread(source: Generator[Item]) -> AsyncGenerator[Item, None]:
    """The items of ``source``, each made in a thread, so that the event loop stays free.

    Closing this generator, or cancelling the task that waits for it, closes ``source``: at once where it is suspended,
    else as soon as the item under way is made, since a generator cannot be closed while a thread runs it.
    """
    step: asyncio.Task[Item | None] | None = None
    try:
        while True:
            step = asyncio.create_task(asyncio.to_thread(next, source, None))
            item = await asyncio.shield(step)
            if item is None:
                return
            yield item
    finally:
        if step is None or step.done():
            source.close()
        else:
            step.add_done_callback(lambda done: _close(source, done))


def _close(source: Generator[Item], last: asyncio.Task[Item | None]) -> None:
    if last.cancelled():  # the loop ends, and the thread with it
        return
    last.exception()  # of an item that nobody waits for: looked at here, or asyncio complains that nobody did
    source.close()
