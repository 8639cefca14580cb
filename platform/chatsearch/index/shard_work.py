"""Building one shard from its vectors: the files that :mod:`chatsearch.index.shard` opens.

Shape suffixes: M items of the shard, R pictures that they show, d retrieval dimension.

    shards/index-00000.faiss      flat: IndexIDMap2 over IndexFlatIP, rows in the order of their faiss ids; other kinds number them
    shards/vectors-00000.npy      the rows as float32, for kinds whose FAISS file holds codes
    shards/items-00000.parquet    item_id, content_hash, metadata (JSON), faiss_id, in the same order
    shards/canaries-00000.parquet item_id, content_hash, metadata (JSON), vector: rows with known answers
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from chatsearch.index.approximate import filled, keeps_vectors, propose, trained
from chatsearch.index.canaries import NUM_CANARIES, Canaries, choose, tie, write_canaries
from chatsearch.index.items import ItemTable, items_as_table, write_items
from chatsearch.index.search_parameters import SearchParameters
from chatsearch.index.shard import canaries_name, index_name, items_name, vectors_name
from chatsearch.index.vectors import Float32
from chatsearch.manifest import FileEntry, file_entry
from chatsearch.storage import Folder
from chatsearch.types import GalleryItem


@dataclass(frozen=True)
class Method:
    """How the shards of one index are searched."""

    kind: str
    num_lists: int
    parameters: Mapping[str, int]
    """Of a search that says nothing."""


@dataclass(frozen=True)
class ShardWork:
    """One shard to build. Plain values: it travels to where the work is done."""

    output: str
    """URI of the index."""
    shard: int
    members: Sequence[tuple[int, GalleryItem]]
    """Items with their faiss ids, in the order of these."""
    rows_M: NDArray[np.int64]
    """Of each item, the row of its picture in the feature store."""
    method: Method


@dataclass(frozen=True)
class BuiltShard:
    """What was written of a shard."""

    files: Mapping[str, FileEntry]
    tie: str


def learn(method: Method, *samples: Float32) -> NDArray[np.uint8] | None:
    """What all shards share, learnt from a sample (., d) in pieces: an empty FAISS index as bytes; None where there is nothing to learn."""
    if method.kind == "flat":
        return None
    return faiss.serialize_index(trained(method.kind, np.concatenate(samples), method.num_lists))


def build_shard(work: ShardWork, learnt: NDArray[np.uint8] | None, *pieces: Float32) -> BuiltShard:
    """Write the files of one shard.

    Args:
        work: which shard.
        learnt: what :func:`learn` gave.
        pieces: unit vectors of its pictures, each once and in the store's order, (R, d) when strung together.
    """
    kind, folder = work.method.kind, Folder(work.output)
    _, places_M = np.unique(work.rows_M, return_inverse=True)
    vectors_Md: Float32 = np.concatenate(pieces)[places_M]
    table = ItemTable(items_as_table([item for _, item in work.members], [number for number, _ in work.members]))
    index = _flat(work.members, vectors_Md) if learnt is None else filled(faiss.deserialize_index(learnt), vectors_Md)
    names = [index_name(work.shard), items_name(work.shard), canaries_name(work.shard)]
    with folder.writing(items_name(work.shard)) as path:
        write_items(path, [item for _, item in work.members], [number for number, _ in work.members])
    with folder.writing(canaries_name(work.shard)) as path:
        write_canaries(path, _canaries(index, work.method, vectors_Md, table))
    with folder.writing(index_name(work.shard)) as path:
        faiss.write_index(index, path)
    if not keeps_vectors(kind):
        names.append(vectors_name(work.shard))
        with folder.writing(names[-1]) as path, open(path, "wb") as file:
            np.save(file, vectors_Md, allow_pickle=False)
    entries = {name: file_entry(folder, name) for name in names}
    return BuiltShard(entries, tie(table, vectors_Md))


def _flat(members: Sequence[tuple[int, GalleryItem]], vectors_Md: Float32) -> Any:
    numbers_M = np.array([number for number, _ in members], dtype=np.int64)
    index = faiss.IndexIDMap2(faiss.IndexFlatIP(vectors_Md.shape[1]))
    index.add_with_ids(np.ascontiguousarray(vectors_Md), numbers_M)
    return index


def _canaries(index: Any, method: Method, vectors_Md: Float32, table: ItemTable) -> Canaries:
    """A few rows of a shard that a search with its defaults finds."""
    rows = choose(vectors_Md, table.id_order())
    if method.kind != "flat" and rows:
        parameters = SearchParameters(**method.parameters)
        assert parameters.num_reranked is not None
        found_CK = propose(index, vectors_Md[rows], min(parameters.num_reranked, len(table)), None, parameters)
        rows = [row for row, found_K in zip(rows, found_CK, strict=True) if row in found_K]
    kept = rows[:: max(1, len(rows) // NUM_CANARIES)][:NUM_CANARIES]
    return Canaries(vectors_Md[kept], tuple(table.item(row) for row in kept))
