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

from serve.backend import ServedPair
from serve.settings import CoverageSettings
from serve.threads import iterate_in_thread

if TYPE_CHECKING:
    from ray.serve.handle import DeploymentHandle


class ModelServer:
    """Answers dialogues. Every step of the model runs in a thread, so that the replica's event loop stays free."""

    def __init__(
        self,
        model: str,
        pair: ServedPair,
        shards: Sequence[DeploymentHandle],
        torch_threads: int,
        coverage: CoverageSettings,
    ) -> None:
        import torch
        from chatsearch.converse.engine import Engine
        from chatsearch.model.bundle import load_bundle

        from serve.pictures import GalleryPictures
        from serve.shard_deployment import ShardFanOut

        torch.set_num_threads(torch_threads)
        self._shards = ShardFanOut(
            shards, index=pair.index, items_per_shard=pair.gallery.items_per_shard, settings=coverage
        )
        self._engine = Engine(load_bundle(model), self._shards, GalleryPictures(pair.images))

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
        """Fingerprint of the model; answers only once the bundle is loaded and as many shards reply as an answer needs."""
        await asyncio.to_thread(self._shards.check)
        return self._engine.model
