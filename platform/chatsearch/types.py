"""The vocabulary that every part shares: segments, documents, turns, gallery items and hits.

A *document* is an ordered list of segments, each text or image. Captions, interleaved web pages,
instruction dialogues, edit triplets and ChatSearch samples are all documents; a *dialogue* is a
document with turns.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from chatsearch.errors import InputError


class Role(StrEnum):
    """Who speaks a segment. ``NONE`` outside dialogues."""

    NONE = "none"
    USER = "user"
    ASSISTANT = "assistant"


class Kind(StrEnum):
    """What a document is for; training mixes and evaluation protocols select by it."""

    CAPTION = "caption"
    """One picture and its captions."""
    INTERLEAVED = "interleaved"
    """Text and pictures in reading order, as on a web page."""
    TEXT = "text"
    """Words alone, for language-model warm starts."""
    QUESTION = "question"
    """A dialogue answered in words."""
    EDIT = "edit"
    """Reference picture and instruction; the answer is the result picture."""
    T = "chatsearch_t"
    """ChatSearch: several rounds of text; the answer is a picture."""
    I = "chatsearch_i"  # noqa: E741 -- the paper's own name of the sub-task
    """ChatSearch: one picture and one instruction; the answer is a picture."""
    M = "chatsearch_m"
    """ChatSearch: several rounds of text and pictures; the answer is a picture."""
    GALLERY = "gallery"
    """One picture to be found, under its item id."""


@dataclass(frozen=True, slots=True)
class Segment:
    """One piece of a document: text, or an image named by its content hash.

    Raises:
        InputError: if neither or both of ``text`` and ``image`` are given.
    """

    text: str | None = None
    image: str | None = None
    role: Role = Role.NONE
    loss: bool = True
    """Whether the training objective may fall on this segment."""

    def __post_init__(self) -> None:
        if (self.text is None) == (self.image is None):
            raise InputError(f"A segment holds either text or an image; got text={self.text!r}, image={self.image!r}.")


@dataclass(frozen=True, slots=True)
class Document:
    """Segments in reading order, with where they come from."""

    document_id: str
    kind: Kind
    segments: tuple[Segment, ...]
    corpus: str = ""
    split: str = "train"
    attributes: Mapping[str, str] = field(default_factory=dict)
    """Free columns that travel along: captions, source ids, ground truth as JSON."""

    def images(self) -> list[str]:
        """Content hashes in reading order, repeats kept."""
        return [s.image for s in self.segments if s.image is not None]

    def turns(self) -> Iterator[tuple[Role, tuple[Segment, ...]]]:
        """Runs of consecutive segments with one role."""
        run: list[Segment] = []
        for segment in self.segments:
            if run and segment.role != run[-1].role:
                yield run[-1].role, tuple(run)
                run = []
            run.append(segment)
        if run:
            yield run[-1].role, tuple(run)

    def query(self) -> tuple[tuple[Segment, ...], str]:
        """The context before the last image and that image: a retrieval query and its target.

        Raises:
            InputError: if the document does not end in an image answer.
        """
        last = self.segments[-1] if self.segments else None
        if last is None or last.image is None:
            raise InputError(f"Document {self.document_id!r} does not end in an image, so it is no retrieval query.")
        return self.segments[:-1], last.image


@dataclass(frozen=True, slots=True)
class GalleryItem:
    """An entry of a gallery: ``item_id`` is unique in it, ``content_hash`` may be shared."""

    item_id: str
    content_hash: str
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Hit:
    """One candidate. ``score`` is a cosine: higher is better. ``rank`` starts at 1."""

    item_id: str
    score: float
    rank: int
    content_hash: str
    metadata: Mapping[str, str] = field(default_factory=dict)


def content_hash(data: bytes) -> str:
    """sha256 of the encoded bytes of a picture, in hex: its identity everywhere."""
    return hashlib.sha256(data).hexdigest()


def faiss_id(item_id: str) -> int:
    """The first 63 bits of sha256(item_id): the int64 id under which FAISS holds an item."""
    return int.from_bytes(hashlib.sha256(item_id.encode()).digest()[:8], "big") >> 1
