"""One deployment a shard of the index, and the fan-out over all of them."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from chatsearch.converse.engine import Ranking
from chatsearch.errors import ClusterError, CorruptArtefactError, FingerprintMismatchError, OverloadedError
from chatsearch.index.coverage import Covered, merge_covered
from chatsearch.index.merge import ShardHits
from chatsearch.index.shard import IndexShard
from chatsearch.types import GalleryItem, faiss_id
from numpy.typing import NDArray

from serve.calls import named_errors
from serve.settings import CoverageSettings

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

    def __init__(
        self,
        shards: Sequence[DeploymentHandle],
        *,
        index: str,
        items_per_shard: Sequence[int],
        settings: CoverageSettings,
    ) -> None:
        self._shards = list(shards)
        self._index = index
        self._items_per_shard = items_per_shard
        self._settings = settings

    def search(self, query_d: NDArray[np.float32], k: int, exclude: Collection[str]) -> Ranking:
        """Ask every shard, merge exactly.

        Raises:
            FingerprintMismatchError: a shard serves another version of the index than this model was paired with.
            OverloadedError: shards are busy, did not answer in time or went away, and too little of the gallery is left.
        """
        results, missing = self._ask(lambda shard: shard.search.remote(query_d[None], k, exclude))
        self._check_versions(result.version for result in results)
        covered = self._merged(results, missing, k)
        return Ranking(covered.hits[0], self._index, covered.coverage)

    def check(self) -> None:
        """Whether as many shards are loaded as an answer needs; errors as :meth:`search`."""
        versions, missing = self._ask(lambda shard: shard.version.remote())
        self._check_versions(versions)
        self._merged([ShardHits(self._index, 0, ()) for _ in versions], missing, 1)

    def _merged(self, results: Sequence[ShardHits], missing: Mapping[int, str], k: int) -> Covered:
        return merge_covered(results, missing, self._items_per_shard, k, min_coverage=self._settings.min_coverage)

    def _ask(self, call: Callable[[DeploymentHandle], Any]) -> tuple[list[Any], dict[int, str]]:
        """What the shards answer, and why those that do not have none."""
        results, missing = [], dict[int, str]()
        asked = dict[int, Any]()
        for number, shard in enumerate(self._shards):
            with self._noting(missing, number):
                asked[number] = call(shard)
        until = time.monotonic() + self._settings.timeout_s
        for number, response in asked.items():
            with self._noting(missing, number):
                results.append(response.result(timeout_s=max(0.0, until - time.monotonic())))
        return results, missing

    @contextlib.contextmanager
    def _noting(self, missing: dict[int, str], number: int) -> Iterator[None]:
        try:
            with named_errors():
                yield
        except TimeoutError:
            missing[number] = f"no answer within {self._settings.timeout_s:g} s"
        except (OverloadedError, ClusterError, CorruptArtefactError) as error:
            missing[number] = str(error)

    def _check_versions(self, versions: Iterable[str]) -> None:
        other = set(versions) - {self._index}
        if other:
            raise FingerprintMismatchError(
                f"A shard serves index {', '.join(sorted(other))}; this model is paired with {self._index}. "
                "Deploy model and index together."
            )
