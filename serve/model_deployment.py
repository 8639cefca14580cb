"""The deployment that holds a model bundle and its dialogue engine."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import TYPE_CHECKING

from chatsearch.converse.config import AnswerOptions
from chatsearch.converse.dialogue import Dialogue, Retrieval
from chatsearch.converse.events import Event
from chatsearch.types import Segment

if TYPE_CHECKING:
    from ray.serve.handle import DeploymentHandle


class ModelServer:
    """Answers dialogues. Every step of the model runs in a thread, so that the replica's event loop stays free."""

    def __init__(
        self, model: str, images: Sequence[str], index: str, shards: Sequence[DeploymentHandle], torch_threads: int
    ) -> None:
        import torch
        from chatsearch.converse.engine import Engine
        from chatsearch.model.bundle import load_bundle

        from serve.pictures import GalleryPictures
        from serve.shard_deployment import ShardFanOut

        torch.set_num_threads(torch_threads)
        self._shards = list(shards)
        self._engine = Engine(load_bundle(model), ShardFanOut(shards, index=index), GalleryPictures(images))

    async def respond(
        self, dialogue: Dialogue, options: AnswerOptions, uploads: Mapping[str, bytes]
    ) -> AsyncGenerator[Event, None]:
        """Events of one answer; see :meth:`chatsearch.converse.engine.Engine.respond`."""
        events = self._engine.respond(dialogue, options, uploads)
        try:
            while (event := await asyncio.to_thread(next, events, None)) is not None:
                yield event
        finally:
            # A client that went away leaves the generator suspended, holding its cache: close it.
            events.close()  # type: ignore[attr-defined]

    async def search(
        self, segments: Sequence[Segment], options: AnswerOptions, uploads: Mapping[str, bytes]
    ) -> Retrieval:
        """See :meth:`chatsearch.converse.engine.Engine.search`."""
        return await asyncio.to_thread(self._engine.search, segments, options, uploads)

    async def fingerprint(self) -> str:
        """Fingerprint of the model; answers only once the bundle is loaded and every shard replies."""
        await asyncio.gather(*(shard.version.remote() for shard in self._shards))
        return self._engine.model
