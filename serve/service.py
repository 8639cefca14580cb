"""What every route handler works with, and the way answers run."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

from chatsearch.converse.config import AnswerOptions
from chatsearch.converse.dialogue import Dialogue, Retrieval
from chatsearch.converse.events import Candidates, Done, Event
from chatsearch.types import Segment
from fastapi import Depends, Request

from serve.backend import Backend
from serve.metrics import ServiceMetrics
from serve.problems import refused
from serve.settings import Limits, PageSettings
from serve.store import ConversationStore


@dataclass(frozen=True)
class Service:
    """The parts behind the routes."""

    backend: Backend
    store: ConversationStore
    limits: Limits
    metrics: ServiceMetrics
    turn_timeout_s: float
    page: PageSettings

    @contextlib.asynccontextmanager
    async def answering(
        self, dialogue: Dialogue, options: AnswerOptions, uploads: Mapping[str, bytes]
    ) -> AsyncIterator[AsyncIterator[Event]]:
        """Events of one answer, counted and under the time limit. Leaving the block early stops the work."""
        source = self.backend.respond(dialogue, options, uploads)
        try:
            yield self._counted(source)
        finally:
            await source.aclose()

    async def _counted(self, source: AsyncGenerator[Event, None]) -> AsyncIterator[Event]:
        deadline = asyncio.get_running_loop().time() + self.turn_timeout_s
        while True:
            async with self._until(deadline):
                event = await anext(source, None)
            if event is None:
                return
            if isinstance(event, Candidates):
                self.metrics.retrieved(event.retrieval)
            elif isinstance(event, Done):
                self.metrics.answered(event)
            yield event

    async def search(
        self, segments: Sequence[Segment], options: AnswerOptions, uploads: Mapping[str, bytes]
    ) -> Retrieval:
        """One search, counted and under the same time limit."""
        async with self._until(asyncio.get_running_loop().time() + self.turn_timeout_s):
            found = await self.backend.search(segments, options, uploads)
        self.metrics.retrieved(found)
        return found

    @contextlib.asynccontextmanager
    async def _until(self, deadline: float) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout_at(deadline):
                yield
        except TimeoutError as error:
            raise refused(
                "timeout",
                f"The answer took longer than {self.turn_timeout_s:g} seconds and was stopped. Nothing was saved.",
                "Ask for fewer tokens, or try again when the service is less busy.",
                504,
            ) from error


def _service(request: Request) -> Service:
    return request.app.state.service


def _trace_id(request: Request) -> str:
    return request.state.trace_id


ServiceDep = Annotated[Service, Depends(_service)]
TraceId = Annotated[str, Depends(_trace_id)]
