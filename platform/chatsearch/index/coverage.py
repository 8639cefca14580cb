"""Answers when some shards of a gallery do not answer: refused, or marked with the share of the gallery they come from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from chatsearch.errors import OverloadedError
from chatsearch.index.merge import ShardHits, merge_batches
from chatsearch.types import Hit


@dataclass(frozen=True)
class Covered:
    """Hits, and the share of the gallery's items among which they were found."""

    hits: list[list[Hit]]
    """Of each query, best first."""
    coverage: float
    """1 where every shard answered; below, better pictures may lie in those that did not."""
    missing: tuple[int, ...] = ()
    """Shards that did not answer."""


def merge_covered(
    results: Sequence[ShardHits],
    missing: Mapping[int, str],
    items_per_shard: Sequence[float],
    k: int,
    *,
    min_coverage: float,
    unique: bool = False,
) -> Covered:
    """Merge what came, if it is enough.

    Args:
        results: answers of shards.
        missing: why each other shard gave none.
        items_per_shard: items of every shard of the gallery, or their shares.
        k: number of hits wanted.
        min_coverage: least share of the items that must have been searched; 1 refuses as soon as a shard with items is missing.
        unique: one hit of each picture at most.

    Raises:
        OverloadedError: too little of the gallery was searched; names the shards.
        FingerprintMismatchError: the answers come from different versions of the index.
    """
    total = sum(items_per_shard)
    lost = sum(items_per_shard[shard] for shard in missing)
    # Not by the sum of those that came: 0.1 + 0.2 is not 0.3, and nothing lost is exactly 1.
    coverage = 1.0 - lost / total if total else 1.0
    if coverage < min_coverage or not results:
        reasons = "; ".join(f"shard {shard}: {reason}" for shard, reason in sorted(missing.items()))
        raise OverloadedError(
            f"{len(missing)} of {len(items_per_shard)} shards did not answer ({reasons}), so {coverage:.1%} of the gallery was searched; "
            f"an answer needs {min_coverage:.1%} (min_coverage). Try again when they are back, or allow partial answers."
        )
    return Covered(merge_batches(results, k, unique=unique), coverage, tuple(sorted(missing)))
