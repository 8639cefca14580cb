"""A gallery whose shards lie in Ray actors, one a shard, spread over the nodes: searched from any process of the cluster.

An actor that dies, alone or with its node, is started again by Ray and opens its shard anew; until then answers lack it, and are
refused or marked as partial. Works over a gallery index and over a live gallery, whose actors answer from one version.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import ray
from numpy.typing import NDArray
from ray.exceptions import GetTimeoutError, RayActorError, RayTaskError

from chatsearch.errors import ChatSearchError, CorruptArtefactError, InputError, OverloadedError
from chatsearch.index.coverage import Covered, merge_covered
from chatsearch.index.filters import Filter, check_fields, check_filter
from chatsearch.index.live.reader import LiveGallery
from chatsearch.index.merge import ShardHits
from chatsearch.index.search_parameters import SearchParameters
from chatsearch.index.shard import IndexShard, recorded_fields
from chatsearch.index.vectors import Exclusions
from chatsearch.kinds import GALLERY_INDEX
from chatsearch.manifest import open_artefact, read_manifest
from chatsearch.storage import resolve

logger = logging.getLogger(__name__)
CANARIES_EVERY_S = 60.0
_SENT_ALONG = 1 << 16
"""Bytes of queries that go to each actor with the call, which is quicker than by way of the object store."""
_ASK_AGAIN = 3
"""Times that actors of a live gallery are asked to answer from one version."""


class ShardActor:
    """One shard in a process of its own."""

    def __init__(self, uri: str, shard: int, poll_s: float) -> None:
        self._live: LiveGallery | None = None
        if read_manifest(uri) is None:
            self._live = LiveGallery.open(uri, shards=[shard])
            self._live.follow(poll_s)
        else:
            self._shard = IndexShard.open(uri, shard)
            threading.Thread(target=self._ask_canaries, daemon=True).start()

    def num_items(self) -> int:
        """Items that can be found here; that it answers also says that the shard is open."""
        return self._live.num_items if self._live else len(self._shard)

    def search(
        self,
        queries_BD: NDArray[np.float32],
        k: int,
        exclude: Exclusions,
        parameters: SearchParameters | None,
        at: int | None,
        *,
        filter: Filter | None = None,
        unique: bool = False,
    ) -> ShardHits:
        """See :meth:`IndexShard.search` and :meth:`LiveGallery.shard_hits`."""
        if self._live is not None:
            return self._live.shard_hits(queries_BD, k, exclude, parameters, filter=filter, unique=unique, at=at)
        return self._shard.search(queries_BD, k, exclude, parameters=parameters, filter=filter, unique=unique)

    def _ask_canaries(self) -> None:
        while True:
            time.sleep(CANARIES_EVERY_S)
            try:
                self._shard.check()
            except CorruptArtefactError as error:
                logger.error("%s The shard is opened anew in another process.", error)
                os._exit(1)  # Ray starts another one, which reads the files again


class ActorGallery:
    """Fan-out search over the actors of one gallery. A Ray session must be there."""

    def __init__(
        self,
        actors: Sequence[Any],
        items_per_shard: Sequence[float],
        *,
        is_live: bool,
        fields: frozenset[str] | None,
    ) -> None:
        self.actors = list(actors)
        """Handles, by shard."""
        self._items_per_shard = items_per_shard
        self._is_live = is_live
        self._fields = fields

    @classmethod
    def open(
        cls, uri: str, *, cpus_per_shard: float = 1.0, poll_s: float = 0.25, wait_s: float = 120.0
    ) -> ActorGallery:
        """Start the actors of a gallery index or a live gallery, and wait until every shard is open.

        Args:
            uri: of the index or the gallery, where all nodes can read it.
            cpus_per_shard: processors that an actor asks for.
            poll_s: how often the actors of a live gallery look for changes.
            wait_s: longest time in which the shards must be open.

        Raises:
            ArtefactError: there is none, or it is damaged.
            OverloadedError: the cluster has no room for the actors, or they do not open in time.
        """
        uri = resolve(uri)
        if read_manifest(uri) is None:
            version = LiveGallery.open(uri, shards=()).view.version
            # Items go to shards by a hash of their ids: on average each shard holds as many as the others.
            sizes: Sequence[float] = [1.0] * version.num_shards
            is_live, fields = True, None  # they grow; each actor knows and checks them
        else:
            artefact = open_artefact(uri, GALLERY_INDEX)
            sizes = artefact.manifest.facts["items_per_shard"]
            is_live, fields = False, recorded_fields(artefact)
        actor = ray.remote(ShardActor).options(
            num_cpus=cpus_per_shard, max_restarts=-1, max_concurrency=8, scheduling_strategy="SPREAD"
        )
        actors = [actor.remote(uri, shard, poll_s) for shard in range(len(sizes))]
        gallery = cls(actors, sizes, is_live=is_live, fields=fields)
        try:
            _, missing = gallery._ask(lambda handle: handle.num_items.remote(), wait_s)
            if missing:
                raise OverloadedError(
                    f"{len(missing)} of {len(sizes)} shards of {uri} did not open within {wait_s:g} s, the first: {next(iter(missing.values()))}. "
                    f"Each asks for {cpus_per_shard:g} CPUs; add nodes, or lower cpus_per_shard."
                )
        except ChatSearchError:
            gallery.close()
            raise
        return gallery

    @property
    def num_shards(self) -> int:
        """Shards of the gallery, whether they answer or not."""
        return len(self.actors)

    def search(
        self,
        queries_BD: NDArray[np.floating],
        k: int,
        exclude: Exclusions = (),
        parameters: SearchParameters | None = None,
        *,
        filter: Filter | None = None,
        unique: bool = False,
        min_coverage: float = 1.0,
        timeout_s: float = 30.0,
    ) -> Covered:
        """The best ``k`` items of every query among the shards that answer.

        Args:
            queries_BD: query embeddings of the model that the gallery is projected with.
            k: number of hits wanted.
            exclude: content hashes to leave out, one collection per query.
            parameters: how far to look in an approximate index; None as its build set it.
            filter: what the metadata of an item must be; None takes any.
            unique: one hit of each picture at most.
            min_coverage: see :func:`~chatsearch.index.coverage.merge_covered`.
            timeout_s: a shard that has not answered by then counts as missing.

        Raises:
            InputError: for a bad ``k``, query or exclusion list, a parameter that this kind of index does not take, or a filter with
                a field that no item has.
            OverloadedError: too little of the gallery answered.
        """
        check_filter(filter)
        if self._fields is not None:
            check_fields(filter, self._fields)
        queries: Any = np.asarray(queries_BD, dtype=np.float32)
        if queries.nbytes > _SENT_ALONG:
            queries = ray.put(queries)

        def ask(at: int | None) -> tuple[list[ShardHits], Mapping[int, str]]:
            return self._ask(
                lambda handle: handle.search.remote(queries, k, exclude, parameters, at, filter=filter, unique=unique),
                timeout_s,
            )

        results, missing = ask(None)
        for _ in range(_ASK_AGAIN if self._is_live else 0):
            versions = {result.version for result in results}
            if len(versions) < 2:
                break
            results, missing = ask(min(int(version.rpartition("@")[2]) for version in versions))
        return merge_covered(results, missing, self._items_per_shard, k, min_coverage=min_coverage, unique=unique)

    def close(self) -> None:
        """End the actors."""
        for actor in self.actors:
            ray.kill(actor)

    def _ask(self, call: Callable[[Any], Any], timeout_s: float) -> tuple[list[Any], Mapping[int, str]]:
        """What the shards answer, in their order, and why those that do not have none.

        Raises:
            InputError: what is asked is wrong, whatever shard is asked.
        """
        until = time.monotonic() + timeout_s
        asked = [call(actor) for actor in self.actors]
        results, missing = [], dict[int, str]()
        for shard, reference in enumerate(asked):
            try:
                results.append(ray.get(reference, timeout=max(0.0, until - time.monotonic())))
            except GetTimeoutError:
                missing[shard] = f"no answer within {timeout_s:g} s"
            except RayActorError:
                missing[shard] = "its process or node is gone"
            except RayTaskError as error:
                cause = error.cause
                if isinstance(cause, InputError):
                    raise cause from None
                missing[shard] = str(cause) if isinstance(cause, ChatSearchError) else type(cause).__name__
        return results, missing
