"""The HTTP application over an engine in this process: the same routes, limits and store, without Ray."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Mapping, Sequence

from chatsearch.converse.config import AnswerOptions
from chatsearch.converse.dialogue import Dialogue, Retrieval
from chatsearch.converse.engine import Engine
from chatsearch.converse.events import Event
from chatsearch.types import GalleryItem, Segment

from serve.backend import GalleryFacts
from serve.threads import iterate_in_thread
from tests.unit.converse.memory import MemoryGallery


class LocalBackend:
    """A real engine behind the interface that deployments stand behind in production."""

    def __init__(self, engine: Engine, gallery: MemoryGallery) -> None:
        self.model = engine.model
        self.index = gallery.version
        self.gallery = GalleryFacts(
            "default",
            gallery.index.num_items,
            (gallery.index.num_items,),
            gallery.index.dimension,
            "exact",
            "enc",
            "mq",
        )
        self._engine = engine
        self._gallery = gallery

    async def respond(
        self, dialogue: Dialogue, options: AnswerOptions, uploads: Mapping[str, bytes]
    ) -> AsyncGenerator[Event, None]:
        async with contextlib.aclosing(iterate_in_thread(self._engine.respond(dialogue, options, uploads))) as events:
            async for event in events:
                yield event

    async def search(
        self, segments: Sequence[Segment], options: AnswerOptions, uploads: Mapping[str, bytes]
    ) -> Retrieval:
        return await asyncio.to_thread(self._engine.search, segments, options, uploads)

    async def item(self, item_id: str) -> GalleryItem | None:
        found = [i for i in self._gallery.items if i.item_id == item_id]
        return found[0] if found else None

    async def picture(self, content_hash: str) -> bytes:
        return self._gallery.get(content_hash)

    async def check(self) -> None:
        return None
