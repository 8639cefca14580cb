"""Answers as server-sent events."""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

from chatsearch.converse.config import AnswerOptions
from chatsearch.converse.dialogue import Dialogue
from chatsearch.converse.events import Done, Event
from fastapi.responses import StreamingResponse

from serve.problems import ProblemError, document, problem_of
from serve.service import Service

logger = logging.getLogger("chatsearch.serve")

Render = Callable[[Event], Awaitable[list[bytes]]]
"""Turns one event of the engine into what goes over the wire."""


def sse(data: Any, event: str | None = None) -> bytes:
    """One server-sent event with a JSON value, or with a bare string."""
    text = data if isinstance(data, str) else json.dumps(data, ensure_ascii=False)
    return (f"event: {event}\n" if event else "").encode() + f"data: {text}\n\n".encode()


async def stream_answer(
    service: Service,
    dialogue: Dialogue,
    options: AnswerOptions,
    uploads: Mapping[str, bytes],
    *,
    render: Render,
    trace_id: str,
) -> StreamingResponse:
    """An answer that is sent while it is made.

    The first event is waited for before the response begins, so that a request that cannot be answered gets its
    proper status. What goes wrong later comes as an event named ``problem``.
    """
    stack = contextlib.AsyncExitStack()
    try:
        events = await stack.enter_async_context(service.answering(dialogue, options, uploads))
        first = await anext(events)
    except BaseException:
        await stack.aclose()
        raise

    async def body() -> AsyncIterator[bytes]:
        async with stack:
            try:
                for chunk in await render(first):
                    yield chunk
                async for event in events:
                    for chunk in await render(event):
                        yield chunk
            except Exception as error:
                found = problem_of(error)
                if found.status >= 500 and not isinstance(error, ProblemError):
                    logger.exception("request %s failed while it was streamed", trace_id)
                yield sse(document(found, trace_id), "problem")

    return StreamingResponse(body(), media_type="text/event-stream", headers={"x-accel-buffering": "no"})


async def whole_answer(
    service: Service, dialogue: Dialogue, options: AnswerOptions, uploads: Mapping[str, bytes]
) -> Done:
    """An answer that is waited for."""
    async with service.answering(dialogue, options, uploads) as events:
        async for event in events:
            if isinstance(event, Done):
                return event
    raise AssertionError("an engine ends every answer with Done")
