"""A gallery that is searched while it changes: follows the log, answers from immutable views.

Shape suffixes: B queries, M rows of a batch, D retrieval dimension.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Collection
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from chatsearch.errors import ChatSearchError, CorruptArtefactError, InputError, MissingInputError, StorageError
from chatsearch.index.filters import Filter
from chatsearch.index.live.entry import Entry
from chatsearch.index.live.live_set import LiveSet, open_shards
from chatsearch.index.live.log import Log, check_order
from chatsearch.index.live.model_lock import ModelLock
from chatsearch.index.live.state import State, Version
from chatsearch.index.live.view import View
from chatsearch.index.merge import ShardHits
from chatsearch.index.search_parameters import SearchParameters
from chatsearch.index.shard import IndexShard
from chatsearch.index.vectors import Exclusions
from chatsearch.storage import Folder
from chatsearch.types import GalleryItem, Hit

KEPT_VIEWS = 8
"""Versions that can still be asked for, so that several processes can answer from the same one."""
_ATTEMPTS = 5
_LIST_EVERY_S = 5.0
CANARIES_EVERY_S = 60.0


class LiveGallery:
    """Search over a gallery. Any number of threads may search; one at a time refreshes."""

    def __init__(
        self, folder: Folder, *, mq_fingerprint: str | None, model: str | None, shards: Collection[int] | None
    ) -> None:
        self._log = Log(folder)
        self._model_lock = ModelLock(folder.uri, mq_fingerprint, model)
        self._shards = shards
        self._pool = ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="live-shard")
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None
        self._views: dict[int, View] = {}
        self._opener = ThreadPoolExecutor(1, thread_name_prefix="live-base")
        self._opening: Future[dict[int, IndexShard]] | None = None
        self._next_listing = 0.0
        self.problem: ChatSearchError | None = None
        """Why the last refresh failed; the last good view goes on answering."""
        self._broken: CorruptArtefactError | None = None
        self._next_check = time.monotonic() + CANARIES_EVERY_S
        self._load()

    @classmethod
    def open(
        cls,
        uri: str,
        mq_fingerprint: str | None = None,
        *,
        model: str | None = None,
        shards: Collection[int] | None = None,
    ) -> LiveGallery:
        """Open the gallery at a URI at its newest version.

        Args:
            uri: where it lies.
            mq_fingerprint: fingerprint of the serving model's M_Q; None follows the gallery whatever model it is projected with.
            model: URI of the serving model, which projects the log's rows; None takes the one that the gallery names.
            shards: the base shards to serve, with the log's items that belong to them; None serves all.

        Raises:
            MissingInputError: there is no gallery.
            ArtefactError: something in it is damaged, or it is projected with another M_Q.
        """
        return cls(Folder(uri), mq_fingerprint=mq_fingerprint, model=model, shards=shards)

    @property
    def view(self) -> View:
        """What the newest version known here answers with."""
        return self._view

    @property
    def version(self) -> int:
        """Number of that version."""
        return self.view.version.number

    @property
    def num_items(self) -> int:
        """Live items of the shards served here."""
        return self.view.num_items

    @property
    def state(self) -> State:
        """Newest state, with the snapshots."""
        return self._state

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
        """See :meth:`chatsearch.index.gallery.GalleryIndex.search`; deleted items are never found.

        Raises:
            CorruptArtefactError: a base shard has failed its canaries and could not be opened anew, see :meth:`check`.
        """
        self._refuse_broken()
        return self.view.search(queries_BD, k, exclude, self._pool, parameters, filter=filter, unique=unique)

    def shard_hits(
        self,
        queries_BD: NDArray[np.floating],
        k: int,
        exclude: Exclusions = (),
        parameters: SearchParameters | None = None,
        *,
        filter: Filter | None = None,
        unique: bool = False,
        at: int | None = None,
    ) -> ShardHits:
        """The same for a process that serves some shards, with the version it answered from.

        Args:
            queries_BD: query embeddings.
            k: number of hits wanted.
            exclude: content hashes to leave out, one collection per query.
            parameters: how far to look in an approximate base; None as its build set it.
            filter: what the metadata of an item must be; None takes any.
            unique: one hit of each picture at most.
            at: version to answer from, so that the answers of several processes belong together; None takes the newest.

        Raises:
            InputError: version ``at`` is not here (yet, or any more), or as :meth:`search`.
        """
        self._refuse_broken()
        if at is not None and at > self.version:
            self.refresh()
        views = self._views
        view = self.view if at is None else views.get(at)
        if view is None:
            raise InputError(
                f"Version {at} of the gallery is not held; this reader has {', '.join(map(str, views))}. Ask for one of them."
            )
        hits = view.search(queries_BD, k, exclude, self._pool, parameters, filter=filter, unique=unique)
        version = f"{self._last.header.gallery}@{view.version.number}"
        return ShardHits(version, min(self._shards or (0,)), tuple(map(tuple, hits)))

    def item(self, item_id: str) -> GalleryItem:
        """One live item by its id.

        Raises:
            InputError: there is none.
        """
        view = self.view
        item = view.find(item_id)
        if item is None:
            raise InputError(
                f"No item {item_id!r} in version {view.version.number} of gallery {self._log.folder.uri}. Use an id from a list of hits."
            )
        return item

    def refresh(self) -> int:
        """Catch up with the log, and return the version reached.

        Raises:
            StorageError: the store failed.
            ArtefactError: an entry or base is damaged, or belongs to another M_Q. The last good view goes on answering.
        """
        with self._lock:
            entries = self._read_ahead()
            try:
                for left, entry in enumerate(entries, 1 - len(entries)):
                    self._apply(entry)
                    if left > -KEPT_VIEWS:  # of a long way only the last versions can be asked for
                        self._publish()
            except (ChatSearchError, OSError):
                self._load()  # what was changed half-way is made anew, or the error is raised again
            self._take_opened()
            return self.version

    def check(self) -> None:
        """Ask the canaries of all base shards. Where one fails, everything is opened anew, which mends what only memory has lost.

        Raises:
            CorruptArtefactError: the files are damaged as well. From now on nothing is answered until a check succeeds.
        """
        try:
            for shard in self.view.shards.values():
                shard.check()
            self._broken = None
        except CorruptArtefactError as error:
            self._broken = error
            with self._lock:
                self._load()
            self._broken = None

    def follow(self, poll_s: float = 0.25) -> None:
        """Refresh in the background: every ``poll_s`` seconds, and at once on :meth:`notify`; check every minute."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, args=(poll_s,), name="live-gallery", daemon=True)
            self._thread.start()

    def notify(self) -> None:
        """Say that something was committed."""
        self._wake.set()

    def close(self) -> None:
        """End the threads; views that are still searched stay whole."""
        self._closed.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join()
        self._pool.shutdown()
        self._opener.shutdown(cancel_futures=True)

    def _run(self, poll_s: float) -> None:
        while not self._closed.is_set():
            self._wake.clear()
            try:
                self.refresh()
                if time.monotonic() >= self._next_check or self._broken:
                    self._next_check = time.monotonic() + CANARIES_EVERY_S
                    self.check()
                self.problem = None
            except ChatSearchError as error:
                self.problem = error
            self._wake.wait(poll_s)

    def _refuse_broken(self) -> None:
        if self._broken is not None:
            raise self._broken

    def _read_ahead(self) -> list[Entry]:
        """Entries behind the last one, in order."""
        entries: list[Entry] = []
        while True:
            last = entries[-1] if entries else self._last
            try:
                entry = self._log.read(last.number + 1)
                check_order(last, entry)
            except MissingInputError:
                if not entries and self._is_left_behind():
                    self._load()
                return entries
            except CorruptArtefactError:
                # An overtaken writer may have left an entry where ours was collected; the log itself decides.
                self._load()
                return []
            entries.append(entry)

    def _is_left_behind(self) -> bool:
        """Whether the log goes on although the next entry is missing: it was collected, as this reader slept too long."""
        if self._log.has(self._last.number) and time.monotonic() < self._next_listing:
            return False
        # A snapshot may keep the last entry but not the next: now and then the whole list decides.
        self._next_listing = time.monotonic() + _LIST_EVERY_S
        return (self._log.numbers() or [0])[-1] > self._last.number

    def _load(self) -> None:
        """Read the whole gallery anew."""
        problem: MissingInputError | None = None
        for _ in range(_ATTEMPTS):
            history = self._log.history()
            known = {entry.number: entry for entry in history.later}
            try:
                live = LiveSet(self._log, self._model_lock, history.version, self._shards, known=known, old=None)
            except MissingInputError as error:  # collected meanwhile
                problem = error
                continue
            self._live, self._last, self._state = live, history.last, history.state
            self._version, self._opening = history.version, None
            self._publish()
            return
        raise CorruptArtefactError(
            f"Gallery {self._log.folder.uri} is not whole: {problem} Restore the object from a copy of the store."
        ) from problem

    def _apply(self, entry: Entry) -> None:
        state, version = entry.header.state, self._version.after(entry.number)
        if state is not None:
            version = state.current
            if _other_content(self._version, version):
                self._move(state)
            self._state = state
        elif entry.batch is not None:
            self._live.apply(entry.number, entry.batch)
        self._version, self._last = version, entry

    def _move(self, state: State) -> None:
        """Rest on what a state says: at once, or, where it holds the same items, when its base is open."""
        version = state.current
        same_partition = self._shards is None or version.num_shards == self._version.num_shards
        self._opening = None
        if state.moved and same_partition and version.base and version.lineage == self._version.lineage:
            self._opening = self._opener.submit(open_shards, self._log, version, self._shards)
        else:
            self._live = LiveSet(self._log, self._model_lock, version, self._shards, known={}, old=self._live)

    def _take_opened(self) -> None:
        """Go over to a base that has been opened in the background."""
        if self._opening is None or not self._opening.done():
            return
        try:
            opened = self._opening.result()
        except (MissingInputError, StorageError):  # collected, as the next base is there already; or the store failed
            self._load()
            return
        self._live = LiveSet(
            self._log, self._model_lock, self._version, self._shards, known={}, old=self._live, opened=opened
        )
        self._opening = None
        self._publish()

    def _publish(self) -> None:
        view = self._live.view(self._version)
        kept = list(self._views.items())[1 - KEPT_VIEWS :]
        # Never changed in place: searches read it meanwhile.
        self._views = {**dict(kept), view.version.number: view}
        self._view = view


def _other_content(held: Version, new: Version) -> bool:
    return (held.base, held.replay, held.lineage, held.num_shards) != (
        new.base,
        new.replay,
        new.lineage,
        new.num_shards,
    )
