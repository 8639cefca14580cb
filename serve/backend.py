"""What the HTTP layer asks of the machinery behind it. It knows no Ray; the ingress plugs deployments in."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from chatsearch.converse.config import AnswerOptions
from chatsearch.converse.dialogue import Dialogue, Retrieval
from chatsearch.converse.events import Event
from chatsearch.types import GalleryItem, Segment


@dataclass(frozen=True, slots=True)
class GalleryFacts:
    """What the manifest of a gallery index says."""

    name: str
    num_items: int
    items_per_shard: tuple[int, ...]
    """Of the shards of the index."""
    dimension: int
    kind: str
    encoder_fingerprint: str
    projection_fingerprint: str


@dataclass(frozen=True, slots=True)
class ServedPair:
    """A model and an index that belong together."""

    model: str
    """Fingerprint of the model."""
    index: str
    """Fingerprint of the index."""
    images: tuple[str, ...]
    """Document shards that hold the gallery's pictures."""
    gallery: GalleryFacts


class Backend(Protocol):
    """A model over a gallery."""

    model: str
    """Fingerprint of the model."""
    index: str
    """Version of the index."""
    gallery: GalleryFacts

    def respond(
        self, dialogue: Dialogue, options: AnswerOptions, uploads: Mapping[str, bytes], /
    ) -> AsyncGenerator[Event, None]:
        """See :meth:`chatsearch.converse.engine.Engine.respond`. Closing the generator stops the work."""

    async def search(
        self, segments: Sequence[Segment], options: AnswerOptions, uploads: Mapping[str, bytes], /
    ) -> Retrieval:
        """See :meth:`chatsearch.converse.engine.Engine.search`."""

    async def item(self, item_id: str, /) -> GalleryItem | None:
        """The gallery item with this id, if there is one."""

    async def picture(self, content_hash: str, /) -> bytes:
        """Encoded bytes of a gallery picture; raises MissingInputError."""

    async def check(self) -> None:
        """Return if a request would be answered now; raise a ChatSearchError that says what is missing otherwise."""
