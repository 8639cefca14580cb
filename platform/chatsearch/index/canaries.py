"""Canaries: vectors of a shard whose answers are known since it was built, asked again when it opens and while it serves.

Checksums say that each file is what was written, not that the files belong together: an item table of another build, or rows in
another order, answers every query with a wrong picture and a good score. Two things are therefore kept of every shard:

- its *tie*: a hash over the item table and a part of each vector, row by row, compared when the shard opens;
- its *canaries*: a few of its own vectors with the hit that each must give, which go the whole way of a search.

Shape suffixes: N rows of the shard, C canaries, D retrieval dimension.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from chatsearch.errors import CorruptArtefactError
from chatsearch.index.items import ItemTable, items_as_table
from chatsearch.index.vectors import Float32, exact_scores, score_error
from chatsearch.types import GalleryItem, Hit

NUM_CANARIES = 4
"""Of each shard; fewer where most of its pictures are copies of each other."""
_NUM_TRIED = 8
_MOST_NEAR = 64
"""A row among more that may score as high is no canary."""
_NUM_NUMBERS = 4
"""Of each vector, in its tie: evenly spread over its width."""


@dataclass(frozen=True)
class Canaries:
    """Questions with their answers."""

    vectors_CD: Float32
    items: tuple[GalleryItem, ...]
    """What each vector, which is that item's own, must find first."""

    def check(self, hits: Sequence[Sequence[Hit]], *, where: str) -> None:
        """Compare what a shard answers now.

        Raises:
            CorruptArtefactError: it answers otherwise than when it was built.
        """
        for number, (item, found) in enumerate(zip(self.items, hits, strict=True)):
            first = found[0] if found else None
            answer = first and GalleryItem(first.item_id, first.content_hash, first.metadata)
            if answer != item or (first and first.score < 0.999):
                got = f"{first.item_id!r} with score {first.score:.4f}" if first else "nothing"
                raise CorruptArtefactError(
                    f"{where} does not answer as it did when it was built: canary {number} of {len(self.items)} must find "
                    f"{item.item_id!r} as it is in the gallery, it finds {got}. Its vectors and items do not belong together; build the "
                    "index again."
                )


def tie(items: ItemTable, vectors_ND: Float32) -> str:
    """One hash of what each row is and where it points to."""
    hasher = hashlib.sha256()
    for column in items.contents():
        hasher.update(column.data)
    columns = np.unique(np.linspace(0, vectors_ND.shape[1] - 1, _NUM_NUMBERS).astype(int))
    hasher.update(np.ascontiguousarray(vectors_ND[:, columns]).data)
    return hasher.hexdigest()


def check_tie(wanted: str, items: ItemTable, vectors_ND: Float32, *, where: str) -> None:
    """Compare the tie of a shard with the one it was built with.

    Raises:
        CorruptArtefactError: vectors and items do not belong together.
    """
    if tie(items, vectors_ND) != wanted:
        raise CorruptArtefactError(
            f"{where}: its items are not those that its vectors were built with, though each file is whole. Restore all files of the "
            "index from one copy, or build it again."
        )


def choose(vectors_ND: Float32, id_order_N: NDArray[np.int64]) -> list[int]:
    """Rows fit to be canaries, spread over the shard: nothing else in it scores as high for their vectors."""
    num_rows = len(vectors_ND)
    if not num_rows:
        return []
    chosen = []
    for row in np.unique(np.linspace(0, num_rows - 1, min(_NUM_TRIED, num_rows)).astype(int)):
        rough_N = vectors_ND @ vectors_ND[row]
        # Whatever may score as high exactly: in a narrow cone of vectors that is more than the few that seem nearest.
        near_K = np.flatnonzero(rough_N >= rough_N[row] - 2 * score_error(vectors_ND.shape[1]))
        if len(near_K) > _MOST_NEAR:
            continue
        scores_K = exact_scores(vectors_ND[near_K], vectors_ND[row])
        best_K = np.lexsort((id_order_N[near_K], -scores_K))
        if near_K[best_K[0]] == row and (len(best_K) == 1 or scores_K[best_K[1]] < scores_K[best_K[0]]):
            chosen.append(int(row))
    return chosen


def write_canaries(path: str, canaries: Canaries) -> None:
    """Write them to a local file. The same canaries give the same bytes."""
    table = items_as_table(canaries.items)
    dimension = canaries.vectors_CD.shape[1]
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(canaries.vectors_CD.ravel(), pa.float32()), dimension)
    pq.write_table(table.append_column("vector", vectors), path, compression="none", use_dictionary=False)


def read_canaries(path: str) -> Canaries:
    """Read them from a local file.

    Raises:
        CorruptArtefactError: if the file holds none.
    """
    try:
        table = pq.read_table(path).combine_chunks()
        vectors = table.column("vector")
    except (pa.ArrowException, KeyError) as error:
        raise CorruptArtefactError(f"{path} holds no canaries: {error}. Build the index again.") from error
    dimension = vectors.type.list_size
    vectors_CD = np.asarray(vectors.combine_chunks().flatten(), dtype=np.float32).reshape(-1, dimension)
    return Canaries(vectors_CD, tuple(ItemTable(table)))
