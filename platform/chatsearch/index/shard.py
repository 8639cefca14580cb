"""One shard of a gallery index: a FAISS file and the items it stands for.

Shape suffixes: B queries, P queries of one round, K candidates fetched per query, N items of the shard, D retrieval dimension.
"""

from __future__ import annotations

from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from chatsearch.errors import ConfigError, CorruptArtefactError
from chatsearch.index.approximate import keeps_vectors, propose, reach
from chatsearch.index.canaries import Canaries, check_tie, read_canaries
from chatsearch.index.items import read_items
from chatsearch.index.merge import ShardHits
from chatsearch.index.search_parameters import SearchParameters
from chatsearch.index.vectors import (
    Exclusions,
    Float32,
    check_exclusions,
    check_k,
    check_queries,
    exact_scores,
    score_error,
)
from chatsearch.kinds import GALLERY_INDEX
from chatsearch.manifest import Artefact, open_artefact
from chatsearch.types import GalleryItem, Hit

_SPARE = 8
"""Candidates fetched beyond ``k``: enough to settle nearly every query in the first round."""
_MAX_GATHERED = 1 << 24
"""Numbers gathered at a time for exact scoring (128 MiB)."""


def index_name(shard: int) -> str:
    """FAISS file of a shard."""
    return f"shards/index-{shard:05d}.faiss"


def vectors_name(shard: int) -> str:
    """Rows of a shard whose FAISS file does not hold them as they are."""
    return f"shards/vectors-{shard:05d}.npy"


def items_name(shard: int) -> str:
    """Item table of a shard."""
    return f"shards/items-{shard:05d}.parquet"


def canaries_name(shard: int) -> str:
    """Vectors of a shard whose answers are known."""
    return f"shards/canaries-{shard:05d}.parquet"


def shard_of(faiss_id: int, num_shards: int) -> int:
    """The shard that holds a faiss id: equal ranges of the 63-bit ids, in order."""
    return (faiss_id * num_shards) >> 63


class IndexShard:
    """Search over one shard. Nothing changes after opening, so any number of threads may search at a time."""

    def __init__(self, artefact: Artefact, shard: int) -> None:
        num_shards = artefact.manifest.counts["shards"]
        if not 0 <= shard < num_shards:
            raise ConfigError(
                f"Index {artefact.uri} has shards 0 to {num_shards - 1}; there is no shard {shard}. Check the deployment's shard count."
            )
        self.version = artefact.fingerprint
        self.shard = shard
        facts = artefact.manifest.facts
        self.kind: str = facts["kind"]
        self.dimension: int = facts["dimension"]
        names = [index_name(shard), items_name(shard)]
        names += [] if keeps_vectors(self.kind) else [vectors_name(shard)]
        names += [canaries_name(shard)] if "ties" in facts else []  # indices of earlier versions have neither
        # All are checked before FAISS sees a byte: its reader trusts sizes in the file.
        paths = {name: artefact.checked_path(name) for name in names}
        self.items = read_items(paths[items_name(shard)])
        """What the rows stand for, in the order of their faiss ids."""
        self._index = _read_index(paths[index_name(shard)])
        self._defaults: dict[str, int] = facts.get("search", {})
        self._faiss_ids_N = self._faiss_ids(artefact)
        if keeps_vectors(self.kind):
            self._vectors_ND = _held_vectors(self._index)
        else:
            self._vectors_ND = np.load(paths[vectors_name(shard)], mmap_mode="r", allow_pickle=False)
        self._id_order_N = self.items.id_order()
        self._where = f"Shard {shard} of {artefact.uri}"
        self._canaries: Canaries | None = None
        if canaries_name(shard) in paths:
            check_tie(facts["ties"][shard], self.items, self._vectors_ND, where=self._where)
            self._canaries = read_canaries(paths[canaries_name(shard)])
            self.check()

    @classmethod
    def open(cls, index: Artefact | str, shard: int) -> IndexShard:
        """Open one shard of an index.

        Raises:
            ArtefactError: if there is no finished index, a file of the shard is damaged, or its vectors and items do not belong
                together.
            ConfigError: if the index has no such shard.
        """
        return cls(open_artefact(index, GALLERY_INDEX) if isinstance(index, str) else index, shard)

    def __len__(self) -> int:
        return len(self._faiss_ids_N)

    def check(self) -> None:
        """Ask what the shard is known to answer. Cheap: a few queries.

        Raises:
            CorruptArtefactError: it answers otherwise now.
        """
        if self._canaries is not None and len(self._canaries.items):
            self._canaries.check(self.search(self._canaries.vectors_CD, 1).queries, where=self._where)

    def find(self, faiss_id: int) -> GalleryItem | None:
        """The item with a faiss id, or None."""
        row = self.items.row_of(faiss_id)
        return None if row < 0 else self.items.item(row)

    def _faiss_ids(self, artefact: Artefact) -> NDArray[np.int64]:
        """In the order of the rows. A flat index names them itself; the others number their rows."""
        held_N = self.items.faiss_ids_N
        named_N: Any = faiss.vector_to_array(self._index.id_map) if self.kind == "flat" else held_N
        if held_N is None or len(held_N) != self._index.ntotal or not np.array_equal(held_N, named_N):
            raise CorruptArtefactError(
                f"Shard {self.shard} of {artefact.uri}: the item table and the FAISS file name different ids. Build the index again."
            )
        return held_N

    def search(
        self,
        queries_BD: NDArray[np.floating],
        k: int,
        exclude: Exclusions = (),
        dead_N: NDArray[np.bool_] | None = None,
        parameters: SearchParameters | None = None,
    ) -> ShardHits:
        """The best ``k`` items of every query in this shard: all there are when ``k`` exceeds them.

        FAISS proposes; the exact score decides. The float32 scores of a flat index depend on batch and shard in the last bits, so
        candidates are fetched until none that was left out could still belong to the answer. An approximate index may leave out
        items of the answer, but gives ``k`` of them where there are so many.

        Args:
            queries_BD: query embeddings of the model the index was built with.
            k: number of hits wanted.
            exclude: content hashes to leave out, one collection per query.
            dead_N: rows that count as not there, for all queries; None where all count.
            parameters: how far to look in an approximate index; None as its build set it.

        Raises:
            InputError: for a bad ``k``, query or exclusion list, or a parameter that this kind of index does not take.
        """
        k = check_k(k)
        queries_BD = check_queries(queries_BD, self.dimension)
        exclusions = check_exclusions(exclude, len(queries_BD))
        parameters = (parameters or SearchParameters()).over(self._defaults, self.kind)
        if self.kind != "flat":
            return ShardHits(
                self.version, self.shard, tuple(self._approximate(queries_BD, k, exclusions, dead_N, parameters))
            )
        answers: list[tuple[Hit, ...]] = [()] * len(queries_BD)
        num_alive = len(self) - (0 if dead_N is None else int(np.count_nonzero(dead_N)))
        wanted = k + _SPARE + max((len(hashes) for hashes in exclusions), default=0)
        if dead_N is not None and num_alive < len(self) and wanted >= num_alive:
            return ShardHits(self.version, self.shard, self._rank_alive(queries_BD, k, exclusions, ~dead_N))
        open_P = list(range(len(queries_BD))) if len(self) else []
        # As many more as there are dead ones among the rows, on average.
        fetch = min(len(self), -(-wanted * len(self) // max(1, num_alive)))
        while open_P:
            still_open = []
            step = max(1, _MAX_GATHERED // (fetch * self.dimension))
            for start in range(0, len(open_P), step):
                queries = open_P[start : start + step]
                found = self._fetch(queries_BD[queries], k, fetch, [exclusions[query] for query in queries], dead_N)
                for query, hits in zip(queries, found, strict=True):
                    if hits is None:
                        still_open.append(query)
                    else:
                        answers[query] = hits
            open_P = still_open
            fetch = min(len(self), 4 * fetch)
        return ShardHits(self.version, self.shard, tuple(answers))

    def _fetch(
        self,
        queries_PD: Float32,
        k: int,
        fetch: int,
        exclusions: list[frozenset[str]],
        dead_N: NDArray[np.bool_] | None,
    ) -> list[tuple[Hit, ...] | None]:
        """Answers from ``fetch`` candidates a query; None where one that was not fetched could still belong to the answer."""
        approximate_PK, ids_PK = self._index.search(queries_PD, fetch)
        rows_PK = np.searchsorted(self._faiss_ids_N, ids_PK)
        found_PK = ids_PK >= 0  # FAISS fills empty places with -1
        rows_PK[~found_PK] = 0
        scores_PK = exact_scores(self._vectors_ND[rows_PK], queries_PD[:, None, :])
        scores_PK[~found_PK] = -np.inf
        if dead_N is not None:
            scores_PK[dead_N[rows_PK]] = -np.inf
        best_PK = np.lexsort((self._id_order_N[rows_PK], -scores_PK), axis=-1)
        bound_P = approximate_PK[:, -1] + score_error(self.dimension)
        answers: list[tuple[Hit, ...] | None] = []
        for place, exclude in enumerate(exclusions):
            best_K = best_PK[place]
            hits = self._best(rows_PK[place, best_K], scores_PK[place, best_K], k, exclude)
            settled = fetch == len(self) or (len(hits) == k and hits[-1].score > bound_P[place])
            answers.append(hits if settled else None)
        return answers

    def _approximate(
        self,
        queries_BD: Float32,
        k: int,
        exclusions: list[frozenset[str]],
        dead_N: NDArray[np.bool_] | None,
        parameters: SearchParameters,
    ) -> list[tuple[Hit, ...]]:
        """Answers from what FAISS proposes; of queries that lack hits, from further away, and at last from all rows."""
        assert parameters.num_reranked is not None
        alive_N = np.ones(len(self), dtype=np.bool_) if dead_N is None else ~dead_N
        num_alive = int(np.count_nonzero(alive_N))
        wanted = k + max((len(hashes) for hashes in exclusions), default=0)
        answers: list[tuple[Hit, ...]] = [()] * len(queries_BD)
        open_P = list(range(len(queries_BD))) if num_alive else []
        attempt: SearchParameters | None = parameters
        while open_P and attempt is not None and wanted < num_alive:
            fetch = min(max(parameters.num_reranked, wanted), num_alive)
            selected_N = None if num_alive == len(self) else alive_N
            rows_PK = propose(self._index, queries_BD[open_P], fetch, selected_N, attempt)
            for query, rows_K in zip(open_P, rows_PK, strict=True):
                answers[query] = self._rank(rows_K[rows_K >= 0], queries_BD[query], k, exclusions[query])
            open_P = [query for query in open_P if len(answers[query]) < k]
            attempt = attempt.wider(reach(self._index, attempt))
        for query in open_P:
            answers[query] = self._rank(np.flatnonzero(alive_N), queries_BD[query], k, exclusions[query])
        return answers

    def _rank_alive(
        self, queries_BD: Float32, k: int, exclusions: list[frozenset[str]], alive_N: NDArray[np.bool_]
    ) -> tuple[tuple[Hit, ...], ...]:
        """Answers from all living rows, where they are too few to be looked for among the dead."""
        rows_K = np.flatnonzero(alive_N)
        queries = zip(queries_BD, exclusions, strict=True)
        return tuple(self._rank(rows_K, query_D, k, exclude) for query_D, exclude in queries)

    def _rank(self, rows_K: NDArray[np.int64], query_D: Float32, k: int, exclude: frozenset[str]) -> tuple[Hit, ...]:
        """The best of some rows by their exact scores."""
        scores_K = exact_scores(self._vectors_ND[rows_K], query_D)
        best_K = np.lexsort((self._id_order_N[rows_K], -scores_K))
        return self._best(rows_K[best_K], scores_K[best_K], k, exclude)

    def _best(self, rows_K: NDArray[np.int64], scores_K: Float32, k: int, exclude: frozenset[str]) -> tuple[Hit, ...]:
        hits: list[Hit] = []
        for row, score in zip(rows_K.tolist(), scores_K.tolist(), strict=True):
            if len(hits) == k or score == -np.inf:
                break
            if exclude and self.items.content_hash(row) in exclude:
                continue
            item = self.items.item(row)
            hits.append(Hit(item.item_id, score, len(hits) + 1, item.content_hash, item.metadata))
        return tuple(hits)


def _read_index(path: str) -> Any:
    # Mapped, not copied: replicas on one machine share the pages.
    return faiss.read_index(path, faiss.IO_FLAG_MMAP_IFC)


def _held_vectors(index: Any) -> Float32:
    """View of the vectors inside a flat index under an id map or of a graph, (N, D), in the order of the rows."""
    flat: Any = faiss.downcast_index(index.storage if hasattr(index, "storage") else index.index)
    if flat.ntotal == 0:
        return np.empty((0, flat.d), np.float32)
    return faiss.rev_swig_ptr(flat.get_xb(), flat.ntotal * flat.d).reshape(flat.ntotal, flat.d)
