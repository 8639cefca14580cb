"""Merging what shards found: score descending, then item id."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Sequence
from dataclasses import dataclass

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


def merge_hits(shards: Sequence[Sequence[Hit]], k: int) -> list[Hit]:
    """The best ``k`` hits of one query over shards that each give theirs best first."""
    best = itertools.islice(heapq.merge(*shards, key=order), k)
    return [Hit(hit.item_id, hit.score, rank, hit.content_hash, hit.metadata) for rank, hit in enumerate(best, start=1)]


def merge_batches(results: Sequence[ShardHits], k: int) -> list[list[Hit]]:
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
    return [merge_hits(shards, k) for shards in zip(*(result.queries for result in results), strict=True)]
