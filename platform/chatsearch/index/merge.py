"""Merging what shards found: score descending, then item id."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from chatsearch.errors import FingerprintMismatchError
from chatsearch.types import Hit


@dataclass(frozen=True, slots=True)
class ShardHits:
    """What one shard answers to a batch of queries. Self-sufficient, and cheap to send between processes."""

    version: str
    """Fingerprint of the index that the shard belongs to."""
    shard: int
    queries: tuple[tuple[Hit, ...], ...]
    """Hits of each query, best first, ranked within the shard."""


def order(hit: Hit) -> tuple[float, str]:
    """Sort key of a hit: the best score first; equal scores by item id."""
    return -hit.score, hit.item_id


def first_of_pictures(hits: Iterable[Hit]) -> Iterator[Hit]:
    """The first hit of every picture, in order."""
    seen: set[str] = set()
    for hit in hits:
        if hit.content_hash not in seen:
            seen.add(hit.content_hash)
            yield hit


def ranked(hits: Iterable[Hit], k: int) -> list[Hit]:
    """The first ``k`` hits with their ranks."""
    best = itertools.islice(hits, k)
    return [hit if hit.rank == rank else replace(hit, rank=rank) for rank, hit in enumerate(best, start=1)]


def merge_hits(shards: Sequence[Sequence[Hit]], k: int, *, unique: bool = False) -> list[Hit]:
    """The best ``k`` hits of one query over shards that each give theirs best first; if ``unique``, one of each picture."""
    merged = heapq.merge(*shards, key=order)
    return ranked(first_of_pictures(merged) if unique else merged, k)


def merge_batches(results: Sequence[ShardHits], k: int, *, unique: bool = False) -> list[list[Hit]]:
    """:func:`merge_hits` for every query of a batch.

    Raises:
        FingerprintMismatchError: if the results come from different versions of an index.
    """
    versions = {result.version for result in results}
    if len(versions) > 1:
        raise FingerprintMismatchError(
            f"Refused to merge hits of different index versions: {', '.join(sorted(versions))}. "
            "Point every shard to the same index and ask again."
        )
    return [
        merge_hits(shards, k, unique=unique) for shards in zip(*(result.queries for result in results), strict=True)
    ]
