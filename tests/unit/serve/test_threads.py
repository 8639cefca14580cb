"""A generator that is made in threads is closed whenever nobody waits for it any more, and quietly."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Generator
from typing import Any

import pytest
from chatsearch.converse.config import AnswerOptions
from chatsearch.converse.dialogue import Dialogue
from chatsearch.converse.engine import Engine
from chatsearch.model.bundle import ModelBundle

from serve.model_deployment import ModelServer
from serve.threads import iterate_in_thread
from tests.unit.converse.memory import MemoryGallery


class Slow:
    """Yields numbers; each but the first waits for leave."""

    def __init__(self, fault: Exception | None = None) -> None:
        self.working, self.go_on, self.closed = threading.Event(), threading.Event(), threading.Event()
        self._fault = fault

    def items(self) -> Generator[int]:
        try:
            yield 1
            self.working.set()
            assert self.go_on.wait(30)
            if self._fault:
                raise self._fault
            yield 2
        finally:
            self.closed.set()


def run(test: Any) -> list[str]:
    """Run a coroutine; returns what its event loop complained of."""
    complaints: list[str] = []

    async def watched() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(str(context)))
        await test()

    asyncio.run(watched())
    return complaints


def test_all_items_come_in_order() -> None:
    async def everything() -> None:
        assert [item async for item in iterate_in_thread(item for item in (1, 2, 3))] == [1, 2, 3]

    assert run(everything) == []


@pytest.mark.parametrize("fault", [None, ValueError("late")])
def test_a_reader_cancelled_in_mid_item_sees_its_cancellation_and_the_source_is_closed(fault: Exception | None) -> None:
    slow = Slow(fault)

    async def leave() -> None:
        seen = []

        async def read() -> None:
            async with contextlib.aclosing(iterate_in_thread(slow.items())) as items:
                async for item in items:
                    seen.append(item)

        reader = asyncio.create_task(read())
        assert await asyncio.to_thread(slow.working.wait, 30)
        reader.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reader
        assert not slow.closed.is_set(), "a thread is still inside"
        slow.go_on.set()
        assert await asyncio.to_thread(slow.closed.wait, 30)
        assert seen == [1]

    assert run(leave) == []


def test_a_reader_that_stops_between_items_closes_the_source_at_once() -> None:
    slow = Slow()

    async def leave() -> None:
        async with contextlib.aclosing(iterate_in_thread(slow.items())) as items:
            assert await anext(items) == 1
        assert slow.closed.is_set()

    assert run(leave) == []


def test_an_error_of_the_source_reaches_the_reader() -> None:
    slow = Slow(ValueError("broken"))
    slow.go_on.set()

    async def read() -> None:
        with pytest.raises(ValueError, match="broken"):
            async for _ in iterate_in_thread(slow.items()):
                pass

    assert run(read) == []


def test_a_client_that_leaves_the_model_in_mid_token_ends_the_answer(
    bundle: ModelBundle, gallery: MemoryGallery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The method of the deployment itself, over a real engine whose next token is held up."""
    engine = Engine(bundle, gallery, gallery)
    closed, inside, go_on = threading.Event(), threading.Event(), threading.Event()
    real = engine.respond

    def held_up(*args: Any) -> Generator[Any]:
        try:
            for event in real(*args):
                yield event
                inside.set()
                assert go_on.wait(30)
        finally:
            closed.set()

    monkeypatch.setattr(engine, "respond", held_up)
    server = ModelServer.__new__(ModelServer)  # its constructor loads the bundle from a folder
    server._engine = engine

    async def leave() -> None:
        async def read() -> None:
            options = AnswerOptions(retrieve="always", num_candidates=2)
            async with contextlib.aclosing(server.respond(Dialogue().say("a red apple"), options, {})) as events:
                async for _ in events:
                    pass

        reader = asyncio.create_task(read())
        assert await asyncio.to_thread(inside.wait, 30)
        reader.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reader
        go_on.set()
        assert await asyncio.to_thread(closed.wait, 30)

    assert run(leave) == []
