"""One kind of index tried over the rows of one shard: built as a shard is, searched as a shard is, timed one query at a time.

Shape suffixes: Q queries, M items of the shard, S rows of a sample, d retrieval dimension.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from chatsearch.index.approximate import default_parameters
from chatsearch.index.config import IndexConfig
from chatsearch.index.search_parameters import SearchParameters
from chatsearch.index.shard import IndexShard
from chatsearch.index.shard_work import Method, ShardWork, build_shard, learn
from chatsearch.index.vectors import Float32, Float64
from chatsearch.kinds import GALLERY_INDEX
from chatsearch.manifest import begin_output
from chatsearch.types import GalleryItem

K = 10
"""Hits whose recall counts."""
Clock = Callable[[], float]
"""Seconds since some time."""


@dataclass(frozen=True)
class TrialRows:
    """What all kinds are tried over."""

    members: Sequence[tuple[int, GalleryItem]]
    """Items with their faiss ids, ascending."""
    vectors_Md: Float32
    sample_Sd: Float32
    """Vectors of the whole gallery that lists and codes are learnt from."""
    lists: int


class Trial:
    """One kind over these rows, in files of a folder that the caller removes."""

    def __init__(self, kind: str, rows: TrialRows, folder: str) -> None:
        output = begin_output(folder, GALLERY_INDEX, IndexConfig.model_validate({"kind": kind}), {})
        method = Method(kind, rows.lists, {} if kind == "flat" else default_parameters(kind, rows.lists))
        work = ShardWork(output.folder.uri, 0, rows.members, np.arange(len(rows.members)), method)
        built = build_shard(work, learn(method, rows.sample_Sd), rows.vectors_Md)
        self.kind = kind
        self._shard = IndexShard(
            output.commit(
                counts={"items": len(rows.members), "shards": 1},
                files=built.files,
                facts={
                    "kind": kind,
                    "dimension": rows.vectors_Md.shape[1],
                    "search": method.parameters,
                    "ties": [built.tie],
                },
            ),
            0,
        )

    def ask(self, queries_Qd: Float32, search: Mapping[str, int], clock: Clock) -> tuple[list[Float32], Float64]:
        """Scores of the best K of every query, and the seconds that each took."""
        parameters = SearchParameters(**search)
        scores, seconds = [], []
        for query_d in queries_Qd:
            begin = clock()
            (hits,) = self._shard.search(query_d[None], K, parameters=parameters).queries
            seconds.append(clock() - begin)
            scores.append(np.array([hit.score for hit in hits], dtype=np.float32))
        return scores, np.array(seconds)


def recall(found: Sequence[Float32], least_Q: NDArray[np.floating], num: int) -> Float64:
    """Share of the ``num`` best that each query found, (Q,).

    Scores are exact, whichever kind proposed the rows, so that a row belongs to the best if it scores as high as the last of them.
    """
    pairs = zip(found, least_Q, strict=True)
    return np.array([min(num, int(np.count_nonzero(scores >= least))) / num for scores, least in pairs])
