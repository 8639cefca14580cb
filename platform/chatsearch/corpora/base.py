"""What every corpus reader offers: partitions that can be read apart, each yielding samples and rejections."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from chatsearch.types import Document


@dataclass(frozen=True, slots=True)
class Sample:
    """A document with the encoded bytes of every picture it names, by content hash."""

    document: Document
    images: Mapping[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Rejected:
    """A record set aside: which one, and why."""

    key: str
    reason: str


@dataclass(frozen=True, slots=True)
class Partition:
    """A share of a corpus that one worker reads. ``payload`` is small and holds plain values only."""

    index: int
    payload: Mapping[str, Any]


class Corpus(Protocol):
    """A source of documents. Equal fingerprints mean equal documents in equal order."""

    name: str

    def fingerprint(self) -> str:
        """Hash of all that decides the documents."""
        ...

    def partitions(self) -> list[Partition]:
        """The shares, in corpus order. Document ids are unique across all of them."""
        ...

    def read(self, partition: Partition) -> Iterator[Sample | Rejected]:
        """The records of one share, in order; a bad one is yielded as ``Rejected``, never dropped or raised."""
        ...
