"""One deployment a shard of the index, and the fan-out over all of them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

import numpy as np
from chatsearch.converse.engine import Ranking
from chatsearch.errors import CorruptArtefactError, FingerprintMismatchError, OverloadedError
from chatsearch.index.merge import ShardHits, merge_batches
from chatsearch.index.shard import IndexShard
from chatsearch.types import GalleryItem, faiss_id
from numpy.typing import NDArray

from serve.calls import named_errors

if TYPE_CHECKING:
    from ray.serve.handle import DeploymentHandle

CANARIES_EVERY_S = 60.0


class ShardServer:
    """Serves one shard. Searching changes nothing, so requests run side by side in threads."""

    def __init__(self, index: str, shard: int) -> None:
        import faiss

        faiss.omp_set_num_threads(1)
        self._shard = IndexShard.open(index, shard)
        self._checked = time.monotonic()
        self._problem: CorruptArtefactError | None = None

    async def check_health(self) -> None:
        """Asked by Ray Serve every few seconds. Once a minute the shard's canaries are asked; a replica that fails is replaced.

        Raises:
            CorruptArtefactError: the shard answers otherwise than when it was built.
        """
        if self._problem is None and time.monotonic() - self._checked >= CANARIES_EVERY_S:
            try:
                await asyncio.to_thread(self._shard.check)
            except CorruptArtefactError as error:
                self._problem = error
            self._checked = time.monotonic()
        if self._problem is not None:
            raise self._problem

    async def search(self, queries_BD: NDArray[np.float32], k: int, exclude: Collection[str]) -> ShardHits:
        """See :meth:`chatsearch.index.shard.IndexShard.search`; the same exclusions hold for all queries.

        Raises:
            CorruptArtefactError: the shard has failed its canaries and waits to be replaced.
        """
        if self._problem is not None:
            raise self._problem
        return await asyncio.to_thread(self._shard.search, queries_BD, k, [exclude] * len(queries_BD))

    async def find(self, item_id: str) -> GalleryItem | None:
        """The item with this id, if this shard holds it."""
        found = self._shard.find(faiss_id(item_id))
        return found if found is not None and found.item_id == item_id else None

    async def version(self) -> str:
        """Fingerprint of the index; that it answers also says that the shard is loaded."""
        return self._shard.version


class ShardFanOut:
    """A retriever over the handles of all shards. Called from worker threads, never from an event loop."""

    def __init__(self, shards: Sequence[DeploymentHandle], *, index: str, timeout_s: float = 30.0) -> None:
        self._shards = list(shards)
        self._index = index
        self._timeout_s = timeout_s

    def search(self, query_d: NDArray[np.float32], k: int, exclude: Collection[str]) -> Ranking:
        """Ask every shard, merge exactly.

        Raises:
            FingerprintMismatchError: a shard serves another version of the index than this model was paired with.
            OverloadedError: a shard is busy, did not answer in time or went away.
        """
        try:
            with named_errors():
                asked = [shard.search.remote(query_d[None], k, exclude) for shard in self._shards]
                results = [response.result(timeout_s=self._timeout_s) for response in asked]
        except TimeoutError as error:
            raise OverloadedError(
                f"A shard of the index did not answer within {self._timeout_s:g} s. Check the shard deployments and try again."
            ) from error
        other = {result.version for result in results} - {self._index}
        if other:
            raise FingerprintMismatchError(
                f"A shard serves index {', '.join(sorted(other))}; this model is paired with {self._index}. "
                "Deploy model and index together."
            )
        (hits,) = merge_batches(results, k)
        return Ranking(hits, self._index)
