"""One shard of a gallery index: a FAISS file and the items it stands for.

Shape suffixes: B queries, P queries of one round, K candidates fetched per query, N items of the shard, D retrieval
dimension.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from chatsearch.errors import ConfigError, CorruptArtefactError
from chatsearch.index.approximate import keeps_vectors, propose, reach
from chatsearch.index.canaries import Canaries, check_tie, read_canaries
from chatsearch.index.columns import TableColumns
from chatsearch.index.exhaustive import nearest
from chatsearch.index.filters import Filter, check_filter
from chatsearch.index.items import read_items
from chatsearch.index.merge import ShardHits
from chatsearch.index.rows import BestRows, hits_of
from chatsearch.index.search_parameters import SearchParameters
from chatsearch.index.selection import SCANNED_NUMBERS, Selection
from chatsearch.index.vectors import (
    Exclusions,
    Float32,
    check_exclusions,
    check_k,
    check_queries,
    exact_scores,
)
from chatsearch.kinds import GALLERY_INDEX
from chatsearch.manifest import Artefact, open_artefact
from chatsearch.types import GalleryItem

_SPARE = 8
"""Candidates fetched beyond ``k``: enough to settle nearly every query in the first round."""
_MAX_GATHERED = 1 << 24
"""Numbers that the candidates of a round hold: queries beyond are answered in a further round."""
_SCORED_AT_A_TIME = 1 << 17
"""Numbers multiplied at a time for exact scores: with their products they stay in a core's cache."""
SCANNED_SHARE = 0.25
"""Of this share or less of a flat index the rows are gathered and scored alone; of more, all are scored, which needs no copy."""
_KEPT_FILTERS = 16
"""Filters whose rows a shard remembers: some ten bytes a row, and copies of few vectors."""


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
        self.gallery_fields = recorded_fields(artefact)
        """See :func:`recorded_fields`."""
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
            # A plain view: numpy.memmap runs code of its own whenever it is indexed.
            self._vectors_ND = np.asarray(np.load(paths[vectors_name(shard)], mmap_mode="r", allow_pickle=False))
        self._id_order_N = self.items.id_order()
        # The cache knows what it needs alone: through a method it would hold this shard, and the shard the cache.
        self._matching = lru_cache(_KEPT_FILTERS)(partial(_matching, self.items.columns(), self._vectors_ND))
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
        *,
        filter: Filter | None = None,
        unique: bool = False,
    ) -> ShardHits:
        """The best ``k`` items of every query in this shard: all there are when ``k`` exceeds them.

        FAISS proposes; the exact score decides. Float32 scores depend on batch and shard in the last bits, so candidates are fetched
        until none that was left out could still belong to the answer. An approximate index may leave out items of the answer, but
        gives ``k`` of them where there are so many. It answers exactly where filter and dead rows leave few.

        Args:
            queries_BD: query embeddings of the model the index was built with.
            k: number of hits wanted.
            exclude: content hashes to leave out, one collection per query.
            dead_N: rows that count as not there, for all queries; None where all count.
            parameters: how far to look in an approximate index; None as its build set it.
            filter: what the metadata of an item must be. A field that no item of this shard has is none's; whether the gallery has it
                is for the caller to check, see :func:`~chatsearch.index.filters.check_fields`.
            unique: one hit of each picture at most.

        Raises:
            InputError: for a bad ``k``, query or exclusion list, a parameter that this kind of index does not take, or no filter.
        """
        found = self.best_rows(queries_BD, k, exclude, dead_N, parameters, filter=filter, unique=unique)
        return ShardHits(self.version, self.shard, tuple(map(tuple, hits_of([self.items], [found], k))))

    def best_rows(
        self,
        queries_BD: NDArray[np.floating],
        k: int,
        exclude: Exclusions = (),
        dead_N: NDArray[np.bool_] | None = None,
        parameters: SearchParameters | None = None,
        *,
        filter: Filter | None = None,
        unique: bool = False,
    ) -> BestRows:
        """The same as rows, for a caller in this process that merges them with those of other shards."""
        queries_BD = check_queries(queries_BD, self.dimension)
        check_filter(filter)
        selected = self._selected(filter, dead_N)
        num_rows = len(self) if selected is None else selected.num_rows
        exclusions = check_exclusions(exclude, len(queries_BD))
        request = _Request(queries_BD, check_k(k), exclusions, unique, selected, num_rows)
        parameters = (parameters or SearchParameters()).over(self._defaults, self.kind)
        answers = BestRows.none(len(queries_BD), min(request.k, num_rows))
        if num_rows:
            open_P = np.arange(len(queries_BD))
            if self.kind != "flat" and (selected is None or num_rows * self.dimension > SCANNED_NUMBERS):
                open_P = self._propose(request, parameters, answers)
            if len(open_P):
                self._settle(request, open_P, answers)
        return answers

    def _selected(self, filter: Filter | None, dead_N: NDArray[np.bool_] | None) -> Selection | None:
        """Rows that may be found; None where all may."""
        if filter is None:
            return None if dead_N is None or not dead_N.any() else Selection(~dead_N, self._vectors_ND)
        selected = self._matching(filter)
        return selected if dead_N is None else selected.without(dead_N)

    def _propose(self, request: _Request, parameters: SearchParameters, answers: BestRows) -> NDArray[np.int64]:
        """Answer from what an approximate index proposes, and queries that lack hits from further away. Returns those that still do."""
        assert parameters.num_reranked is not None
        open_P = np.arange(len(request.queries_BD))
        least = self._num_fetched(request)
        fetch = min(max(parameters.num_reranked, least), request.num_rows)
        attempt: SearchParameters | None = parameters
        while attempt is not None and least < request.num_rows:
            for queries_p in self._in_steps(open_P, fetch):
                rows_pK = propose(self._index, request.queries_BD[queries_p], fetch, request.selected, attempt)
                self._answer(rows_pK, rows_pK >= 0, queries_p, request, answers)
            open_P = open_P[answers.lack(request.k, open_P)]
            if not len(open_P):
                break
            attempt = attempt.wider(reach(self._index, attempt))
        return open_P

    def _settle(self, request: _Request, open_P: NDArray[np.int64], answers: BestRows) -> None:
        """Answer exactly."""
        fetch = self._num_fetched(request) + _SPARE
        if request.selected is not None and request.num_rows > SCANNED_SHARE * len(self):
            # As many more as there are rows that do not count among those that do, on average.
            more = -(-fetch * len(self) // request.num_rows)
            if more < len(self):
                open_P = self._settle_among(None, request, more, open_P, answers)
        while len(open_P):
            fetch = min(fetch, request.num_rows)
            open_P = self._settle_among(request.selected, request, fetch, open_P, answers)
            fetch *= 4

    def _settle_among(
        self,
        among: Selection | None,
        request: _Request,
        fetch: int,
        open_P: NDArray[np.int64],
        answers: BestRows,
    ) -> NDArray[np.int64]:
        """Answer from ``fetch`` candidates a query among the selected rows or all. Returns the queries for which one that
        was not fetched could still belong to the answer.
        """
        still_open = [open_P[:0]]
        fetches_all = fetch == (len(self) if among is None else among.num_rows)
        for queries_p in self._in_steps(open_P, fetch):
            rows_pK, bound_p = nearest(self._vectors_ND, among, request.queries_BD[queries_p], fetch)
            counts_pK = None
            if among is None and request.selected is not None:
                counts_pK = request.selected.mask_N[rows_pK]
            self._answer(rows_pK, counts_pK, queries_p, request, answers)
            if not fetches_all:
                lack_p = answers.lack(request.k, queries_p)
                still_open.append(queries_p[lack_p | (answers.scores_Bk[queries_p, -1] <= bound_p)])
        return np.concatenate(still_open)

    def _in_steps(self, queries_P: NDArray[np.int64], fetch: int) -> Iterator[NDArray[np.int64]]:
        """As many queries at a time as vectors should be gathered for."""
        step = max(1, _MAX_GATHERED // (fetch * self.dimension))
        for start in range(0, len(queries_P), step):
            yield queries_P[start : start + step]

    def _answer(
        self,
        rows_PK: NDArray[np.int64],
        counts_PK: NDArray[np.bool_] | None,
        queries_P: NDArray[np.int64],
        request: _Request,
        answers: BestRows,
    ) -> None:
        """Answer queries with the best of candidates by their exact scores, of those that count where not all do."""
        scores_PK = self._exact_scores(rows_PK, request.queries_BD[queries_P])
        if counts_PK is not None:
            scores_PK[~counts_PK] = -np.inf
        best_PK = np.lexsort((self._id_order_N[rows_PK], -scores_PK), axis=-1)
        places_P1 = np.arange(len(best_PK))[:, None]
        rows_PK, scores_PK = rows_PK[places_P1, best_PK], scores_PK[places_P1, best_PK]
        if not request.chooses_pictures:
            answers.put(queries_P, rows_PK, scores_PK)
            return
        for place, query in enumerate(queries_P):
            kept = self._places(rows_PK[place, scores_PK[place] > -np.inf], request, query)
            answers.put(query, rows_PK[place, kept], scores_PK[place, kept])

    def _num_fetched(self, request: _Request) -> int:
        """Candidates that hold ``k`` hits: those left out are no more than this, and a picture has so many items on average."""
        num = request.k + max((len(hashes) for hashes in request.exclusions), default=0)
        return -(-num * len(self) // self._num_pictures) if request.unique else num

    @cached_property
    def _num_pictures(self) -> int:
        return self.items.num_pictures()

    def _exact_scores(self, rows_PK: NDArray[np.int64], queries_PD: Float32) -> Float32:
        step = max(1, _SCORED_AT_A_TIME // (rows_PK.shape[1] * self.dimension))
        if step >= len(rows_PK):
            return exact_scores(self._vectors_ND[rows_PK], queries_PD[:, None, :])
        scores_PK = np.empty(rows_PK.shape, np.float32)
        for start in range(0, len(rows_PK), step):
            some = slice(start, start + step)
            scores_PK[some] = exact_scores(self._vectors_ND[rows_PK[some]], queries_PD[some, None, :])
        return scores_PK

    def _places(self, rows_K: NDArray[np.int64], request: _Request, query: int) -> list[int]:
        """Places of a query's hits among rows in order."""
        left_out = set(request.exclusions[query])
        places: list[int] = []
        for place, picture in enumerate(self.items.content_hashes(rows_K)):
            if len(places) == request.k:
                break
            if picture not in left_out:
                places.append(place)
                if request.unique:
                    left_out.add(picture)
        return places


@dataclass(frozen=True, slots=True)
class _Request:
    """A checked search."""

    queries_BD: Float32
    k: int
    exclusions: list[frozenset[str]]
    unique: bool
    selected: Selection | None
    """Rows that may be found; None where all may."""
    num_rows: int
    """How many they are."""

    @property
    def chooses_pictures(self) -> bool:
        """Whether a row may be left out for the picture that its item shows."""
        return self.unique or any(self.exclusions)


def recorded_fields(artefact: Artefact) -> frozenset[str] | None:
    """Names of the metadata of a whole index as its manifest holds them; None where it does not."""
    fields: list[str] | None = artefact.manifest.facts.get("fields")
    return None if fields is None else frozenset(fields)


def _matching(columns: TableColumns, vectors_ND: Float32, filter: Filter) -> Selection:
    return Selection(filter.mask_N(columns), vectors_ND)


def _read_index(path: str) -> Any:
    # Mapped, not copied: replicas on one machine share the pages.
    return faiss.read_index(path, faiss.IO_FLAG_MMAP_IFC)


def _held_vectors(index: Any) -> Float32:
    """View of the vectors inside a flat index under an id map or of a graph, (N, D), in the order of the rows."""
    flat: Any = faiss.downcast_index(index.storage if hasattr(index, "storage") else index.index)
    if flat.ntotal == 0:
        return np.empty((0, flat.d), np.float32)
    return faiss.rev_swig_ptr(flat.get_xb(), flat.ntotal * flat.d).reshape(flat.ntotal, flat.d)
