"""Features on their way from the parts of a store to the shards of an index: projected, and dealt to the shards that hold them.

A share is a run of parts that one piece of work projects. What it gives each shard comes in the order of the store's rows, so that
a shard strings the pieces together and knows which row is which.

Shape suffixes: N pictures of the store, M items of a shard, P pictures of a share, d retrieval dimension.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from chatsearch.index.features import FeatureStore
from chatsearch.index.projection import Projection, check_directions
from chatsearch.index.raw_features import RawFeatures, projection_of
from chatsearch.index.vectors import Float32
from chatsearch.types import GalleryItem

ROWS_PER_SHARE = 1 << 16
"""At least, where the store has so many: what one piece of work holds in memory."""


@dataclass(frozen=True)
class Share:
    """Some parts of a feature store, and which of their rows go where."""

    parts: tuple[str, ...]
    rows: tuple[NDArray[np.int64], ...]
    """Rows of the share that each shard takes, ascending, and last those of the sample that all shards learn from."""


def deal(
    parts: Sequence[str],
    rows_per_part: Sequence[int],
    taken: Sequence[NDArray[np.int64]],
    at_least: int = ROWS_PER_SHARE,
) -> Iterator[Share]:
    """Shares that together cover a store.

    Args:
        parts: names of the files of its rows, in order.
        rows_per_part: how many each holds.
        taken: rows of the store that each shard and the sample take, each ascending and without repeats.
        at_least: rows of a share; the last one may have fewer.
    """
    first, names, num_rows = 0, [], 0
    for place, (name, rows) in enumerate(zip(parts, rows_per_part, strict=True), start=1):
        names.append(name)
        num_rows += rows
        if num_rows >= at_least or place == len(parts):
            yield Share(tuple(names), tuple(_between(rows_M, first, first + num_rows) for rows_M in taken))
            first, names, num_rows = first + num_rows, [], 0


def _between(rows_M: NDArray[np.int64], start: int, stop: int) -> NDArray[np.int64]:
    low, high = np.searchsorted(rows_M, (start, stop))
    return rows_M[low:high] - start


def picture_rows(members: Sequence[tuple[int, GalleryItem]], store: FeatureStore) -> NDArray[np.int64]:
    """Row of the store of each item's picture, (M,)."""
    return np.array([store.row_of(item.content_hash) for _, item in members], dtype=np.int64)


def project_rows(store: FeatureStore, projection: Projection | RawFeatures, rows_M: NDArray[np.int64]) -> Float32:
    """Unit vectors (M, d) of some rows of a store, in any order and with repeats, without all of its features in memory.

    Raises:
        CorruptArtefactError: if features are not finite.
    """
    taken_R, places_M = np.unique(rows_M, return_inverse=True)
    shares = (share for share in deal(store.parts, store.rows_per_part, [taken_R]) if len(share.rows[0]))
    return np.concatenate([project_share(store.uri, projection.uri, share)[0] for share in shares])[places_M]


def project_share(features: str, model: str, share: Share) -> list[Float32]:
    """Unit vectors (., d) of the rows that each shard takes of a share, and last those of the sample.

    Args:
        features: URI of the feature store.
        model: URI of the model bundle; empty for raw features.
        share: of that store.

    Raises:
        ArtefactError: if either is not there or damaged.
        CorruptArtefactError: if features that are taken are not finite.
    """
    store = FeatureStore.open(features)
    projection = projection_of(model, store)
    needed_R = np.unique(np.concatenate(share.rows))
    blocks, first = [np.empty((0, projection.dimension), np.float32)], 0
    for name in share.parts:
        hashes, cls_PD = store.part_cls(name)
        rows_R = _between(needed_R, first, first + len(hashes))
        vectors_Rd = projection.apply(cls_PD[rows_R])
        finite_R = np.asarray(np.isfinite(vectors_Rd).all(axis=1))
        check_directions(finite_R, [hashes[row] for row in rows_R.tolist()], where=f"{name} of {store.uri}")
        blocks.append(vectors_Rd)
        first += len(hashes)
    vectors_Rd = np.concatenate(blocks)
    return [vectors_Rd[np.searchsorted(needed_R, rows)] for rows in share.rows]
