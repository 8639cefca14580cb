"""A whole gallery index in one process: all shards searched at a time, their hits merged.

Shape suffixes: B queries, D retrieval dimension.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from chatsearch.errors import FingerprintMismatchError, IncompleteArtefactError, InputError
from chatsearch.index.exhaustive import limit_threads
from chatsearch.index.filters import Filter, check_fields
from chatsearch.index.live.place import holds_gallery
from chatsearch.index.rows import BestRows, hits_of
from chatsearch.index.search_parameters import SearchParameters
from chatsearch.index.shard import IndexShard, recorded_fields, shard_of
from chatsearch.index.vectors import Exclusions
from chatsearch.kinds import GALLERY_INDEX
from chatsearch.manifest import Artefact, open_artefact
from chatsearch.storage import resolve
from chatsearch.types import GalleryItem, Hit, faiss_id


def open_index(uri: str, mq_fingerprint: str | None = None, *, model: str = "MODEL") -> Artefact:
    """Open the index at a URI for a model, without loading its shards.

    Args:
        uri: where the index lies.
        mq_fingerprint: fingerprint of the serving model's M_Q; None leaves the check out.
        model: URI of the serving model, for the command that repairs a mismatch.

    Raises:
        InputError: if a gallery that changes lies there.
        ArtefactError: if there is no finished index, or it is damaged.
        FingerprintMismatchError: if it was built with another M_Q: its pictures would still look plausible.
    """
    try:
        artefact = open_artefact(uri, GALLERY_INDEX)
    except IncompleteArtefactError as error:
        if not holds_gallery(uri):
            raise
        raise InputError(
            f"{resolve(uri)} is a gallery that changes (jobs.gallery), not an index. Search it with LiveGallery or ActorGallery, or name an "
            "index, as jobs.index makes them."
        ) from error
    facts = artefact.manifest.facts
    if mq_fingerprint is not None and mq_fingerprint != facts["mq_fingerprint"]:
        raise FingerprintMismatchError(
            f"Index {artefact.uri} was built with M_Q {facts['mq_fingerprint']}, the model has M_Q {mq_fingerprint}. Build its index: "
            f"python -m jobs.index --set features={facts['features']} --set model={model} --set output=NEW_URI"
        )
    return artefact


class GalleryIndex:
    """Fan-out search over the shards of one index."""

    def __init__(self, artefact: Artefact) -> None:
        self.artefact = artefact
        num_shards: int = artefact.manifest.counts["shards"]
        num_cores = os.cpu_count() or 1
        num_threads = min(num_shards, num_cores)
        # The shards share the cores: else FAISS takes all of them for each.
        self._pool = ThreadPoolExecutor(
            num_threads, "index-shard", initializer=limit_threads, initargs=(num_cores // num_threads,)
        )
        self._shards = list(self._pool.map(lambda shard: IndexShard.open(artefact, shard), range(num_shards)))

    @classmethod
    def open(cls, uri: str, mq_fingerprint: str | None = None, *, model: str = "MODEL") -> GalleryIndex:
        """Load the index at a URI for a model, see :func:`open_index`."""
        return cls(open_index(uri, mq_fingerprint, model=model))

    @property
    def version(self) -> str:
        """Fingerprint of the index; every answer names it."""
        return self.artefact.fingerprint

    @property
    def dimension(self) -> int:
        """Width of a query."""
        return self.artefact.manifest.facts["dimension"]

    @property
    def num_items(self) -> int:
        """Items that can be found."""
        return self.artefact.manifest.counts["items"]

    @cached_property
    def fields(self) -> frozenset[str]:
        """Names that the items' metadata have: a filter can ask for these."""
        recorded = recorded_fields(self.artefact)
        # Of an index whose manifest does not hold them, the tables tell, at the price of reading all metadata once.
        return frozenset().union(*(shard.items.fields() for shard in self._shards)) if recorded is None else recorded

    @property
    def images(self) -> tuple[str, ...]:
        """Document shards that hold the pictures."""
        return tuple(self.artefact.manifest.facts["images"])

    def item(self, item_id: str) -> GalleryItem:
        """One item by its id.

        Raises:
            InputError: if the gallery has no such item.
        """
        number = faiss_id(item_id)
        item = self._shards[shard_of(number, len(self._shards))].find(number)
        if item is None or item.item_id != item_id:
            raise InputError(
                f"No item {item_id!r} in gallery index {self.version} of {self.num_items} items. Use an id from a list of hits."
            )
        return item

    def search(
        self,
        queries_BD: NDArray[np.floating],
        k: int,
        exclude: Exclusions = (),
        parameters: SearchParameters | None = None,
        *,
        filter: Filter | None = None,
        unique: bool = False,
    ) -> list[list[Hit]]:
        """The best ``k`` items of every query: all there are when ``k`` exceeds them.

        Args:
            queries_BD: query embeddings of the model the index was built with.
            k: number of hits wanted.
            exclude: content hashes to leave out, one collection per query; every item that shows such a picture is left out.
            parameters: how far to look in an approximate index; None as its build set it.
            filter: what the metadata of an item must be, for all queries; None takes any.
            unique: one hit of each picture: the best of the items that show it, and of equal ones the first by id.

        Returns:
            For each query its hits, score descending, then item id.

        Raises:
            InputError: for a bad ``k``, query or exclusion list, a parameter that this kind of index does not take, or a filter with
                a field that no item of the gallery has.
        """
        if filter is not None:
            check_fields(filter, self.fields)

        def rows(shard: IndexShard) -> BestRows:
            return shard.best_rows(queries_BD, k, exclude, parameters=parameters, filter=filter, unique=unique)

        found = list((self._pool.map if len(self._shards) > 1 else map)(rows, self._shards))
        return hits_of([shard.items for shard in self._shards], found, k, unique=unique)

    def check(self) -> None:
        """See :meth:`chatsearch.index.shard.IndexShard.check`, for every shard."""
        for shard in self._shards:
            shard.check()

    def close(self) -> None:
        """Let the threads go; the shards' files close with the last reference to them."""
        self._pool.shutdown()
