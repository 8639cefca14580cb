"""Search over raw features with M_Q folded into the query: no index, and nothing but its norms, a model.

Shape suffixes: B queries, N pictures, K candidates of a query, I items, D width of f_CLS, d retrieval dimension.

    q^T M_Q f / |M_Q f| = (M_Q^T q)^T f / |M_Q f|

One float32 matrix product over the store proposes pictures, with a bound on its rounding; whichever could belong to the answer is
scored exactly, as an index over projected vectors scores it. Ids, order and scores are those of that index.

Or an index over the raw features, one for all models, proposes: with M_Q^T q it finds pictures by q^T M_Q f / |f|, whose order is that
of the scores but for the factor |f| / |M_Q f| of each picture. So more are fetched than are wanted, and exact scores decide among them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from chatsearch.errors import CorruptArtefactError, FingerprintMismatchError, InputError
from chatsearch.index.features import FeatureStore
from chatsearch.index.fold import NORMS, row_order
from chatsearch.index.gallery import GalleryIndex
from chatsearch.index.projection import Projection
from chatsearch.index.raw_features import RAW
from chatsearch.index.search_parameters import SearchParameters
from chatsearch.index.vectors import (
    MAX_K,
    Exclusions,
    Float32,
    Float64,
    check_exclusions,
    check_k,
    check_queries,
    exact_scores,
    score_error,
)
from chatsearch.kinds import FOLDED_NORMS
from chatsearch.manifest import Artefact, open_artefact
from chatsearch.types import Hit

PROPOSED_PER_HIT = 10
"""Proposals a hit that is wanted, where nothing is said."""
_MAX_SCORES = 1 << 24
"""Scores of one matrix product (64 MiB)."""


class FoldedGallery:
    """A feature store as one model sees it. Answers as a :class:`chatsearch.index.gallery.GalleryIndex` of
    kind flat does, without filters; exact without proposals."""

    def __init__(
        self, norms: Artefact, store: FeatureStore, projection: Projection, proposals: GalleryIndex | None = None
    ) -> None:
        """Put together what :meth:`open` has found.

        Raises:
            FingerprintMismatchError: the norms are of another store or another M_Q, or the proposals are not of this store's raw
                features; names both, and the command that repairs it.
            CorruptArtefactError: the norms do not fit the store's rows.
        """
        facts = norms.manifest.facts
        for what, ours, theirs in (
            ("features", facts["features_fingerprint"], store.fingerprint),
            ("M_Q", facts["mq_fingerprint"], projection.mq_fingerprint),
        ):
            if ours != theirs:
                raise FingerprintMismatchError(
                    f"Norms {norms.uri} were made for {what} {ours}, and are to be used with {what} {theirs}. Make those that fit: "
                    f"python -m jobs.fold --set features={store.uri} --set model={projection.uri} --set output=NEW_URI"
                )
        projection.check(store)
        if proposals is not None:
            _check_proposals(proposals, store)
        self._norms_N: Float32 = np.load(norms.checked_path(NORMS), allow_pickle=False)
        if self._norms_N.shape != (len(store),) or facts["row_order"] != row_order(store.hashes):
            raise CorruptArtefactError(
                f"Norms {norms.uri} are {len(self._norms_N)} in an order of their own; store {store.uri} has {len(store)} pictures. Make "
                "them again with --set overwrite=true."
            )
        self.artefact = norms
        self._store = store
        self._projection = projection
        self._proposals = proposals
        self._cls_ND = store.matrix_ND
        # How much longer a picture's features are than its projection: what rounding errors grow by.
        self._gains_N = np.sqrt(np.einsum("nd,nd->n", self._cls_ND, self._cls_ND)) / self._norms_N
        items = store.item_table
        rows_I = np.array([store.row_of(items.content_hash(place)) for place in range(len(items))], dtype=np.int64)
        self._items_by_row_I = np.argsort(rows_I, kind="stable")
        self._first_item_N = np.searchsorted(rows_I[self._items_by_row_I], np.arange(len(store) + 1))
        self._shown_N = np.diff(self._first_item_N) > 0

    @classmethod
    def open(
        cls,
        uri: str,
        mq_fingerprint: str | None = None,
        *,
        model: str | None = None,
        store: FeatureStore | None = None,
        proposals: GalleryIndex | None = None,
    ) -> FoldedGallery:
        """Open the norms at a URI, with the store and the model that they name.

        Args:
            uri: where the norms lie.
            mq_fingerprint: fingerprint of the serving model's M_Q; None leaves the check out.
            model: URI of the model; None takes the one that the norms name.
            store: the feature store, where it is open already: galleries of several models share its rows.
            proposals: an index over the store's raw features (``index --set raw=true``), likewise shared; None looks at all rows.

        Raises:
            ArtefactError: something is not there, or damaged.
            FingerprintMismatchError: store, model and norms do not belong together.
        """
        norms = open_artefact(uri, FOLDED_NORMS)
        facts = norms.manifest.facts
        if mq_fingerprint not in (None, facts["mq_fingerprint"]):
            raise FingerprintMismatchError(
                f"Norms {norms.uri} are of M_Q {facts['mq_fingerprint']}, the model has M_Q {mq_fingerprint}. Make its norms: "
                f"python -m jobs.fold --set features={facts['features']} --set model={model or 'MODEL'} --set output=NEW_URI"
            )
        if store is None:
            store = FeatureStore.open(facts["features"])
        return cls(norms, store, Projection.open(model or facts["model"]), proposals)

    @property
    def version(self) -> str:
        """Fingerprint of the norms, which are of one store and one model; every answer names it."""
        return self.artefact.fingerprint

    @property
    def dimension(self) -> int:
        """Width of a query."""
        return self._projection.dimension

    @property
    def num_items(self) -> int:
        """Items that can be found."""
        return len(self._items_by_row_I)

    def search(
        self,
        queries_BD: NDArray[np.floating],
        k: int,
        exclude: Exclusions = (),
        parameters: SearchParameters | None = None,
        *,
        num_proposed: int | None = None,
    ) -> list[list[Hit]]:
        """See :meth:`chatsearch.index.gallery.GalleryIndex.search`.

        Args:
            queries_BD: query embeddings of the model, width d.
            k: number of hits wanted.
            exclude: content hashes to leave out, one collection per query.
            parameters: how far to look in the index that proposes.
            num_proposed: items that it proposes for each query, ``k`` at least; None takes :data:`PROPOSED_PER_HIT` times ``k``.

        Raises:
            InputError: for a bad ``k``, query or exclusion list, or something said to an index that proposes where none does.
        """
        k = check_k(k)
        queries_Bd = check_queries(queries_BD, self.dimension)
        exclusions = check_exclusions(exclude, len(queries_Bd))
        folded_BD = queries_Bd.astype(np.float64) @ self._projection.weight_dD.astype(np.float64)
        lengths_B = np.sqrt((folded_BD * folded_BD).sum(axis=1))
        if self._proposals is None and (parameters is not None or num_proposed is not None):
            raise InputError(
                "This folded gallery looks at all rows, so it takes no search parameters. Open it with proposals=INDEX to use them."
            )
        if self._proposals is None:
            scored = self._all_rows(folded_BD, exclusions)
        else:
            num = min(PROPOSED_PER_HIT * k, MAX_K) if num_proposed is None else check_k(num_proposed)
            if num < k:
                raise InputError(f"num_proposed={num} is less than k={k}. Ask for more proposals, or leave it out.")
            proposed = self._proposals.search(folded_BD / lengths_B[:, None], num, exclusions, parameters)
            scored = self._proposed_rows(folded_BD, proposed)
        return [
            self._rank(self._candidates(rows_K, scores_K, length, k), query_d, k)
            for (rows_K, scores_K), length, query_d in zip(scored, lengths_B.tolist(), queries_Bd, strict=True)
        ]

    def _all_rows(
        self, folded_BD: Float64, exclusions: Sequence[frozenset[str]]
    ) -> Iterator[tuple[NDArray[np.int64], Float32]]:
        """For each query the rows that are shown and not left out, with their float32 scores."""
        step = max(1, _MAX_SCORES // max(1, len(self._store)))
        for start in range(0, len(folded_BD), step):
            block = slice(start, start + step)
            with np.errstate(over="ignore", invalid="ignore"):  # such rows are scored exactly
                scores_BN = folded_BD[block].astype(np.float32) @ self._cls_ND.T / self._norms_N
            for scores_N, exclude in zip(scores_BN, exclusions[block], strict=True):
                shown_N = self._shown_N
                left_out = [self._store.row_of(content_hash) for content_hash in exclude if content_hash in self._store]
                if left_out:
                    shown_N = shown_N.copy()
                    shown_N[left_out] = False
                rows_K = np.flatnonzero(shown_N)
                yield rows_K, scores_N[rows_K]

    def _proposed_rows(
        self, folded_BD: Float64, proposed: Sequence[Sequence[Hit]]
    ) -> Iterator[tuple[NDArray[np.int64], Float32]]:
        """For each query the pictures of its proposals, each once, with their float32 scores."""
        for folded_D, hits in zip(folded_BD, proposed, strict=True):
            rows_K = np.unique(np.array([self._store.row_of(hit.content_hash) for hit in hits], dtype=np.int64))
            with np.errstate(over="ignore", invalid="ignore"):
                yield rows_K, self._cls_ND[rows_K] @ folded_D.astype(np.float32) / self._norms_N[rows_K]

    def _candidates(self, rows_K: NDArray[np.int64], scores_K: Float32, length: float, k: int) -> NDArray[np.int64]:
        """Those of some rows that may be among the best ``k``, going by their float32 scores for a folded query of this length."""
        if len(rows_K) <= k:
            return rows_K
        errors_K = score_error(self._store.dimension) * (1.0 + length * self._gains_N[rows_K])
        known_K = np.isfinite(scores_K) & np.isfinite(errors_K)
        least_K = np.where(known_K, scores_K - errors_K, -np.inf)
        most_K = np.where(known_K, scores_K + errors_K, np.inf)
        return rows_K[most_K >= np.partition(least_K, len(rows_K) - k)[len(rows_K) - k]]

    def _rank(self, rows_K: NDArray[np.int64], query_d: Float32, k: int) -> list[Hit]:
        """The best items of some rows by their exact scores."""
        scores = exact_scores(self._projection.apply(self._cls_ND[rows_K]), query_d).tolist()
        table = self._store.item_table
        found = [
            (-score, table.item_id(place), place)
            for row, score in zip(rows_K.tolist(), scores, strict=True)
            for place in self._items_by_row_I[self._first_item_N[row] : self._first_item_N[row + 1]].tolist()
        ]
        hits = []
        for rank, (negated, _, place) in enumerate(sorted(found)[:k], start=1):
            item = table.item(place)
            hits.append(Hit(item.item_id, -negated, rank, item.content_hash, item.metadata))
        return hits


def _check_proposals(proposals: GalleryIndex, store: FeatureStore) -> None:
    manifest = proposals.artefact.manifest
    for what, ours, theirs in (
        ("features", manifest.inputs["features"], store.fingerprint),
        ("M_Q", manifest.facts["mq_fingerprint"], RAW),
    ):
        if ours != theirs:
            raise FingerprintMismatchError(
                f"Index {proposals.artefact.uri} has {what} {ours}; proposals for store {store.uri} take {theirs}. Build them: python -m "
                f"jobs.index --set raw=true --set model= --set features={store.uri} --set output=NEW_URI"
            )
