"""A gallery at one version, as searches see it: base shards without their dead rows, and the segment. Never changed.

Shape suffixes: B queries, N rows of a shard, D retrieval dimension.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from chatsearch.index.filters import Filter, check_fields, check_filter
from chatsearch.index.live.segment import SegmentView
from chatsearch.index.live.state import Version
from chatsearch.index.merge import merge_hits
from chatsearch.index.search_parameters import SearchParameters
from chatsearch.index.shard import IndexShard, shard_of
from chatsearch.index.vectors import Exclusions, check_exclusions, check_k, check_queries
from chatsearch.types import GalleryItem, Hit, faiss_id


@dataclass(frozen=True)
class View:
    """What one version answers with."""

    version: Version
    shards: Mapping[int, IndexShard]
    dead: Mapping[int, NDArray[np.bool_]]
    """Rows of each base shard that are deleted or replaced at this version."""
    segment: SegmentView
    num_items: int
    fields: frozenset[str] | None
    """Names of the metadata of all items of the gallery, of other readers' shards too, and of those that were deleted since the base
    was built; None where the manifest of the base does not hold them, and filters are not checked."""

    def find(self, item_id: str) -> GalleryItem | None:
        """The live item with this id, or None."""
        found = self.segment.find(item_id)
        number = faiss_id(item_id)
        shard = shard_of(number, self.version.num_shards)
        if found is not None or shard not in self.shards:
            return found
        items = self.shards[shard].items
        row = items.row_of(number)
        return items.item(row) if row >= 0 and not self.dead[shard][row] and items.item_id(row) == item_id else None

    def search(
        self,
        queries_BD: NDArray[np.floating],
        k: int,
        exclude: Exclusions,
        pool: Executor,
        parameters: SearchParameters | None = None,
        *,
        filter: Filter | None = None,
        unique: bool = False,
    ) -> list[list[Hit]]:
        """The best ``k`` live items of every query, score descending, then item id: all there are when ``k`` exceeds them.

        Raises:
            InputError: for a bad ``k``, query or exclusion list, a parameter that the base's kind of index does not take, or a filter
                with a field that no item has.
        """
        k = check_k(k)
        unit_BD = check_queries(queries_BD, self.version.lineage.dimension)
        exclusions = check_exclusions(exclude, len(queries_BD))
        check_filter(filter)
        if self.fields is not None:
            check_fields(filter, self.fields)

        def hits(shard: int) -> Sequence[Sequence[Hit]]:
            index, dead_N = self.shards[shard], self.dead[shard]
            return index.search(queries_BD, k, exclusions, dead_N, parameters, filter=filter, unique=unique).queries

        found = pool.map(hits, self.shards)
        parts = [self.segment.search(unit_BD, k, exclusions, filter=filter, unique=unique), *found]
        return [merge_hits(hits, k, unique=unique) for hits in zip(*parts, strict=True)]
