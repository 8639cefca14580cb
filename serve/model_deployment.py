"""The deployment that holds a model bundle and its dialogue engine."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import TYPE_CHECKING

from chatsearch.converse.config import AnswerOptions
from chatsearch.converse.dialogue import Dialogue, Retrieval
from chatsearch.converse.events import Event
from chatsearch.types import Segment

from serve.calls import named_errors
from serve.threads import iterate_in_thread

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
        # A client that went away leaves the engine's generator suspended, holding its cache: closing ours closes it.
        async with contextlib.aclosing(iterate_in_thread(self._engine.respond(dialogue, options, uploads))) as events:
            async for event in events:
                yield event

    async def search(
        self, segments: Sequence[Segment], options: AnswerOptions, uploads: Mapping[str, bytes]
    ) -> Retrieval:
        """See :meth:`chatsearch.converse.engine.Engine.search`."""
        return await asyncio.to_thread(self._engine.search, segments, options, uploads)

    async def fingerprint(self) -> str:
        """Fingerprint of the model; answers only once the bundle is loaded and every shard replies."""
        with named_errors():
            await asyncio.gather(*(shard.version.remote() for shard in self._shards))
        return self._engine.model
