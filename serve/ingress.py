"""The ingress deployment: the HTTP application over handles to the model and the index shards."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from chatsearch.converse.config import AnswerOptions
from chatsearch.converse.dialogue import Dialogue, Retrieval
from chatsearch.converse.events import Event
from chatsearch.errors import OverloadedError
from chatsearch.types import GalleryItem, Segment

from serve.backend import ServedPair
from serve.calls import named_errors

if TYPE_CHECKING:
    from fastapi import FastAPI
    from ray.serve.handle import DeploymentHandle

    from serve.settings import ServeArgs

_READY_TIMEOUT_S = 5.0


class RayBackend:
    """A :class:`serve.backend.Backend` whose parts are deployments."""

    def __init__(
        self,
        model_handle: DeploymentHandle,
        shards: Sequence[DeploymentHandle],
        pair: ServedPair,
    ) -> None:
        from serve.pictures import GalleryPictures

        self.model = pair.model
        self.index = pair.index
        self.gallery = pair.gallery
        self._model_handle = model_handle
        self._shards = list(shards)
        self._pictures = GalleryPictures(pair.images)

    async def respond(
        self, dialogue: Dialogue, options: AnswerOptions, uploads: Mapping[str, bytes]
    ) -> AsyncGenerator[Event, None]:
        """Events of one answer from a model replica."""
        with named_errors():
            stream: Any = self._model_handle.options(stream=True).respond.remote(dialogue, options, dict(uploads))
            try:
                async for event in stream:
                    yield event
            finally:
                stream.cancel()

    async def search(
        self, segments: Sequence[Segment], options: AnswerOptions, uploads: Mapping[str, bytes]
    ) -> Retrieval:
        """Candidates for a context, from a model replica."""
        with named_errors():
            return await self._model_handle.search.remote(tuple(segments), options, dict(uploads))

    async def item(self, item_id: str) -> GalleryItem | None:
        """The gallery item with this id, asked of the shard that would hold it."""
        from chatsearch.index.shard import shard_of
        from chatsearch.types import faiss_id

        with named_errors():
            return await self._shards[shard_of(faiss_id(item_id), len(self._shards))].find.remote(item_id)

    async def picture(self, content_hash: str) -> bytes:
        """Encoded bytes of a gallery picture."""
        return await asyncio.to_thread(self._pictures.get, content_hash)

    async def check(self) -> None:
        """Ask the model, which asks every shard."""
        with named_errors():
            try:
                async with asyncio.timeout(_READY_TIMEOUT_S):
                    await self._model_handle.fingerprint.remote()
            except TimeoutError as error:
                raise OverloadedError(
                    f"Model or index did not answer within {_READY_TIMEOUT_S:g} s. They may still be loading."
                ) from error


class Ingress:
    """Serves HTTP. Its state is the database's; replicas are interchangeable."""

    def __init__(
        self,
        args: ServeArgs,
        model_handle: DeploymentHandle,
        shards: Sequence[DeploymentHandle],
        pair: ServedPair,
    ) -> None:
        from serve.store import ConversationStore

        self._args = args
        self._store = ConversationStore(args.database)
        self._backend = RayBackend(model_handle, shards, pair)

    def __serve_build_asgi_app__(self) -> FastAPI:
        """The application of this replica; Serve calls it after the constructor."""
        from serve.http import build_http_app

        return build_http_app(
            self._backend,
            self._store,
            self._args.limits,
            allowed_hosts=self._args.allowed_hosts,
            turn_timeout_s=self._args.turn_timeout_s,
            retry_after_s=self._args.retry_after_s,
            page_settings=self._args.page,
        )
