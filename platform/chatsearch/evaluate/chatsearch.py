"""The ChatSearch protocol: sub-tasks t, i and m, ``[IMG]`` forced, recall against a gallery.

What is varied, and named in every result:

- gallery: ``targets`` = the distinct targets of the sub-task (as published); ``all`` = every picture of the index;
- context pictures: dropped from their own query's ranking (``R@K``), or left in (``context_kept``);
- ties: counted against the query (``R@K``), or for it (``optimistic``);
- pipeline: ``pipelines`` splits the queries by how they were made, each also against that pipeline's own targets, since
  targets of two sources can be told apart without reading the query;
- history: ``beside_i`` sets each query of m beside the one of i that is its last round, by pipeline of m: what history adds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chatsearch.errors import MissingInputError
from chatsearch.evaluate.methods import Method
from chatsearch.evaluate.metrics import CUTOFFS, Ranks, average, random_recalls, recalls
from chatsearch.evaluate.pictures import PictureFeatures
from chatsearch.evaluate.queries import Query, targets_of
from chatsearch.evaluate.ranking import Gallery, rank
from chatsearch.index.vectors import Float32

PROTOCOL = {
    "query": "whole context, [IMG] forced as the first token of the answer",
    "rank": "1 + number of other pictures with score >= the target's; exact float32 cosine",
    "context_images": "dropped from the ranking of their own query; context_kept: left in",
    "gallery": "targets: distinct targets of the sub-task; all: every picture of the index",
    "average": "plain mean of the R@K cells that the method has",
}
GALLERIES = ("targets", "all")
RANDOM = "random (expected)"


class ChatSearchEvaluation:
    """Queries and galleries of one data set; methods are measured on it one after the other."""

    def __init__(self, tasks: Mapping[str, Sequence[Query]], gallery: Sequence[str], features: PictureFeatures) -> None:
        """Take queries by sub-task and the content hashes of the whole gallery.

        Raises:
            MissingInputError: a target is not in the gallery, so that no method could find it.
        """
        self.tasks = tasks
        self._features = features
        self._all = Gallery(gallery)
        for name, queries in tasks.items():
            lost = [query for query in queries if query.target not in self._all.column_of]
            if lost:
                raise MissingInputError(
                    f"{len(lost)} of {len(queries)} targets of sub-task {name} are not in the gallery, the first is that of "
                    f"{lost[0].query_id!r}. Embed and index the shards that hold them, or evaluate with the index of this gallery."
                )
        self._galleries = {
            name: {"targets": Gallery(targets_of(queries)), "all": self._all} for name, queries in tasks.items()
        }

    def counts(self) -> dict[str, Any]:
        """Number of queries and pictures of each sub-task."""
        return {
            name: {
                "num_queries": len(queries),
                "num_gallery": {which: len(self._galleries[name][which]) for which in GALLERIES},
                "mean_context_words": round(float(np.mean([len(query.text.split()) for query in queries])), 1),
            }
            for name, queries in self.tasks.items()
        }

    def measure(self, method: Method) -> dict[str, Any]:
        """All results of one method: by sub-task, then gallery; and its averages."""
        vectors_Nd = method.gallery(self._features.matrix(self._all.hashes, what="encode the gallery"))
        results: dict[str, Any] = {}
        ranks: dict[str, NDArray[np.int64]] = {}
        for name, queries in self.tasks.items():
            if not method.applies_to(name):
                results[name] = None
                continue
            queries_Qd = method.queries(queries)
            results[name] = {
                which: self._cell(self._galleries[name][which], vectors_Nd, queries, queries_Qd) for which in GALLERIES
            }
            ranks[name] = self._ranks(self._all, vectors_Nd, queries, queries_Qd, drop=True).pessimistic_Q
        if "i" in ranks and "m" in ranks:
            results["m"]["all"]["beside_i"] = self._beside_i(ranks["i"], ranks["m"])
        return {**results, "average": self._averages(results)}

    def _beside_i(self, ranks_i: NDArray[np.int64], ranks_m: NDArray[np.int64]) -> dict[str, Any]:
        """By pipeline of m: recalls of its queries in the whole gallery, and of those of i that are their last rounds."""
        place_of = {_last_round(query): place for place, query in enumerate(self.tasks["i"])}
        pairs: dict[str, list[tuple[int, int]]] = {}
        for place, query in enumerate(self.tasks["m"]):
            if _last_round(query) in place_of:
                pairs.setdefault(query.pipeline or "unknown", []).append((place_of[_last_round(query)], place))
        found = {}
        for pipeline in sorted(pairs):
            at_i, at_m = (list(places) for places in zip(*pairs[pipeline], strict=True))
            found[pipeline] = {
                "num_queries": len(at_m),
                "i": recalls(ranks_i[at_i]),
                "m": recalls(ranks_m[at_m]),
            }
        return found

    def expected_random(self) -> dict[str, Any]:
        """What uniformly random rankings of the galleries reach in expectation."""
        results: dict[str, Any] = {
            name: {which: random_recalls(len(self._galleries[name][which])) for which in GALLERIES}
            for name in self.tasks
        }
        return {**results, "average": self._averages(results)}

    @staticmethod
    def _averages(results: Mapping[str, Any]) -> dict[str, float] | None:
        measured = {name: result for name, result in results.items() if result}
        if not measured:
            return None
        return {
            which: average({name: {f"R@{k}": r[which][f"R@{k}"] for k in CUTOFFS} for name, r in measured.items()})
            for which in GALLERIES
        }

    def _cell(
        self, gallery: Gallery, vectors_Nd: Float32, queries: Sequence[Query], queries_Qd: Float32
    ) -> dict[str, Any]:
        """Results of one method on one sub-task and gallery."""
        dropped = self._ranks(gallery, vectors_Nd, queries, queries_Qd, drop=True)
        kept = self._ranks(gallery, vectors_Nd, queries, queries_Qd, drop=False)
        pipelines = np.array([query.pipeline or "unknown" for query in queries])
        by_pipeline = {}
        for pipeline in sorted(set(pipelines.tolist())):
            mine_Q = pipelines == pipeline
            asked = [query for query in queries if (query.pipeline or "unknown") == pipeline]
            own = self._ranks(Gallery(targets_of(asked)), vectors_Nd, asked, queries_Qd[mine_Q], drop=True)
            by_pipeline[pipeline] = {
                **recalls(dropped.select(mine_Q).pessimistic_Q),
                "own_targets": recalls(own.pessimistic_Q),
                "num_queries": len(asked),
            }
        return {
            **recalls(dropped.pessimistic_Q),
            "optimistic": recalls(dropped.optimistic_Q),
            "context_kept": recalls(kept.pessimistic_Q),
            "median_rank": float(np.median(dropped.pessimistic_Q)),
            "pipelines": by_pipeline,
        }

    def _ranks(
        self, gallery: Gallery, vectors_Nd: Float32, queries: Sequence[Query], queries_Qd: Float32, *, drop: bool
    ) -> Ranks:
        rows = [self._all.column_of[content_hash] for content_hash in gallery.hashes]
        excluded = [query.images for query in queries] if drop else None
        return rank(gallery, vectors_Nd[rows], queries_Qd, [query.target for query in queries], excluded)


def _last_round(query: Query) -> tuple[str, str]:
    """The last picture that is shown and the one that is wanted: what a query of i is, and a query of m ends in."""
    return (query.images[-1] if query.images else "", query.target)
