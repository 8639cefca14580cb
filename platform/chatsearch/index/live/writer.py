"""The one writer of a gallery: every call that returns has been committed, durably and for all readers."""

from __future__ import annotations

import contextlib
import re
import threading
import time
import uuid
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Self

from chatsearch.errors import (
    ConfigError,
    GalleryError,
    InputError,
    MissingInputError,
    StorageError,
    UnknownNameError,
    WriterConflictError,
)
from chatsearch.index.live.batch import Batch, Features, check_directions, make_batch
from chatsearch.index.live.catalogue import Catalogue
from chatsearch.index.live.compact import Compacted, Compaction, build_base, live_catalogue
from chatsearch.index.live.entry import Entry, Header, Kind
from chatsearch.index.live.garbage import DEFAULT_GRACE_S, Collected, collect_garbage
from chatsearch.index.live.lease import Lease
from chatsearch.index.live.log import Log
from chatsearch.index.live.model_lock import ModelLock
from chatsearch.index.live.pinned import open_pinned
from chatsearch.index.live.state import State, Version
from chatsearch.index.projection import Projection
from chatsearch.index.search_parameters import TAKEN
from chatsearch.kinds import GALLERY_INDEX
from chatsearch.storage import Folder
from chatsearch.types import GalleryItem

DEFAULT_LEASE_S = 30.0
_NAME = re.compile(r"(?!\d+$)[A-Za-z0-9._-]{1,100}")
_ATTEMPTS = 5


class GalleryWriter:
    """Changes a gallery. Calls from several threads are taken one after the other.

    After a StorageError it is not known whether the change was committed. The writer finds out at the next call; doing the same
    again is harmless for all but :meth:`add`, which then says that the items are there.
    """

    def __init__(self, log: Log, lease: Lease) -> None:
        self.log = log
        self.lease = lease
        self._lock = threading.RLock()
        self._unclear = False
        self._closed = threading.Event()
        self._opened_projection: Projection | None = None
        self._enter()
        threading.Thread(target=self._keep_lease, name="gallery-lease", daemon=True).start()

    @classmethod
    def open(cls, uri: str, holder: str, *, lease_s: float = DEFAULT_LEASE_S, take_over: bool = False) -> GalleryWriter:
        """Become the writer of the gallery at a URI.

        Args:
            uri: where it lies.
            holder: a name that says to others who this is.
            lease_s: seconds without a sign of life after which another writer may take over.
            take_over: do not wait for another holder's lease to end. It is fenced off: none of its writes counts from now on.

        Raises:
            MissingInputError: there is no gallery.
            WriterConflictError: another writer holds it, named with the end of its lease.
            ArtefactError: something in it is damaged.
        """
        log = Log(Folder(uri))
        log.history()  # says by name that there is no gallery, before anything is written
        lease = Lease.acquire(log.folder, holder, lease_s, take_over=take_over)
        try:
            return cls(log, lease)
        except BaseException:
            lease.release()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let the next writer in."""
        with self._lock:
            if not self._closed.is_set():
                self._closed.set()
                self.lease.release()

    @property
    def version(self) -> int:
        """Number of the newest version."""
        return self._version.number

    @property
    def state(self) -> State:
        """The newest state, with the version brought up to date."""
        return self._state.model_copy(update={"current": self._version})

    @property
    def catalogue(self) -> Catalogue:
        """The live items. To be read, not changed."""
        return self._catalogue

    def exclusively(self) -> AbstractContextManager[object]:
        """Inside ``with``, no other thread writes."""
        return self._lock

    @property
    def num_items(self) -> int:
        """Live items."""
        return len(self._catalogue)

    def add(self, items: Sequence[GalleryItem], features: Features) -> int:
        """Add items that are not there yet, all or none. Returns the version from which on they are found.

        Raises:
            GalleryError: an id is live already.
            Others as :meth:`upsert`.
        """
        with self._lock:
            self._ready()
            for item in items:
                if item.item_id in self._catalogue:
                    raise GalleryError(
                        f"Item {item.item_id!r} is in gallery {self.log.folder.uri} already. Use upsert to replace it, or another id."
                    )
            return self.write(items, features)

    def upsert(self, items: Sequence[GalleryItem], features: Features) -> int:
        """Add items, replacing those with the same ids. Returns the version from which on they are found.

        Raises:
            InputError: see :func:`chatsearch.index.live.batch.make_batch`; nothing was written.
            FingerprintMismatchError: the features were made by another encoder; nothing was written.
            WriterConflictError: another writer took over; nothing is acknowledged.
            StorageError: the store failed; the change may or may not be there.
        """
        return self.write(items, features)

    def delete(self, item_ids: Iterable[str]) -> int:
        """Take items out; ids that are not there are fine. Returns the version from which on they are not found.

        Raises:
            See :meth:`upsert`.
        """
        return self.write((), None, item_ids)

    def write(self, items: Sequence[GalleryItem], features: Features | None, deleted: Iterable[str] = ()) -> int:
        """Commit additions and deletions together, as one object. See :meth:`upsert`."""
        with self._lock:
            self._ready()
            batch = make_batch(items, features, deleted, self._version.lineage)
            self._catalogue.check_faiss_ids(batch)
            if batch.items:
                check_directions(batch, self._projection())
            return self._commit("batch", batch=batch).number

    def snapshot(self, name: str) -> int:
        """Keep the newest version under a name until it is dropped. Returns the version that knows the name.

        Raises:
            ConfigError: not a name, or taken.
            Others as :meth:`upsert`.
        """
        with self._lock:
            self._ready()
            if not _NAME.fullmatch(name):
                raise ConfigError(
                    f"{name!r} is no name for a snapshot; use up to 100 of A-Z a-z 0-9 . _ - and not digits alone"
                )
            if name in self._state.snapshots:
                raise ConfigError(
                    f"Snapshot {name!r} is there already, of version {self._state.snapshots[name].number}. Drop it first, or use another name."
                )
            return self.commit_state(self._version, {**self._state.snapshots, name: self._version}, reset=False)

    def drop_snapshot(self, name: str) -> int:
        """Let go of a snapshot.

        Raises:
            InputError: there is none of this name.
        """
        with self._lock:
            self._ready()
            self._named(name)
            others = {other: version for other, version in self._state.snapshots.items() if other != name}
            return self.commit_state(self._version, others, reset=False)

    def rollback(self, to: str | int) -> int:
        """Make the gallery what it was: at a snapshot, or at a version that is kept. Returns the new version.

        Raises:
            InputError: there is no such snapshot, or the version is not kept any more.
        """
        with self._lock:
            self._ready()
            target = self._named(to) if isinstance(to, str) else self.log.history(to).version
            try:
                catalogue = live_catalogue(self.log, target)
            except MissingInputError as error:
                raise InputError(
                    f"Version {target.number} of gallery {self.log.folder.uri} is not kept whole any more ({error}). Name a later one "
                    "or a snapshot."
                ) from error
            number = self.commit_state(target, self._state.snapshots, reset=True)
            self._catalogue = catalogue
            return number

    def plan_compaction(
        self, *, model: str | None = None, num_shards: int | None = None, kind: str | None = None
    ) -> Compaction:
        """The work of compacting the newest version; :func:`~chatsearch.index.live.compact.build_base` does it anywhere, while this
        writer goes on, and :meth:`commit_compaction` makes it count.

        Args:
            model: model bundle to project with; None keeps the gallery's. Its encoder must be the gallery's.
            num_shards: shards of the new base; None keeps their number.
            kind: of index; None keeps the base's, with its lists and search parameters.

        Raises:
            UnknownNameError: there is no such kind, or none without query vectors.
        """
        if kind and kind not in TAKEN:
            raise UnknownNameError.among("kind of index", kind, TAKEN)
        with self._lock:
            self._ready()
            version = self._version
            return Compaction(
                self.log.folder.uri,
                version,
                model or version.lineage.model,
                num_shards or version.num_shards,
                kind=kind,
            )

    def commit_compaction(self, made: Compacted) -> int:
        """Let the gallery rest on a new base; what was written since it was planned applies over it. Returns the version.

        Raises:
            WriterConflictError: the gallery was compacted or rolled back meanwhile; the new base is left to be collected.
            ArtefactError: the base is not whole.
        """
        with self._lock:
            self._ready()
            planned = made.work.version
            if self._state.reset > planned.number or made.work.gallery != self.log.folder.uri:
                raise WriterConflictError(
                    f"The base made of version {planned.number} is void: gallery {self.log.folder.uri} was compacted or rolled back at "
                    f"version {self._state.reset}. Compact again."
                )
            if made.base is not None:
                open_pinned(self.log.folder, made.base.index, GALLERY_INDEX)
            # Not all entries since: states hold nothing to apply, and may be collected already.
            since = planned.number + 1
            version = Version(
                number=self._version.number,
                base=made.base,
                replay=tuple((max(first, since), last) for first, last in self._version.replay if last >= since),
                lineage=made.lineage,
                num_shards=made.work.num_shards,
            )
            catalogue = live_catalogue(self.log, version)
            number = self.commit_state(version, self._state.snapshots, reset=True, moved=True)
            self._catalogue = catalogue
            return number

    def compact(self, *, model: str | None = None, num_shards: int | None = None, kind: str | None = None) -> int:
        """Compact here and now. See :meth:`plan_compaction`."""
        return self.commit_compaction(build_base(self.plan_compaction(model=model, num_shards=num_shards, kind=kind)))

    def collect(self, grace_s: float = DEFAULT_GRACE_S) -> Collected:
        """Delete what no version of the last ``grace_s`` seconds and no snapshot needs. See :func:`collect_garbage`."""
        with self._lock:
            self._ready()
            return collect_garbage(self.log, self._state, self._state_number, grace_s)

    def commit_state(self, version: Version, snapshots: dict[str, Version], *, reset: bool, moved: bool = False) -> int:
        """Commit what the gallery is from now on; see :class:`~chatsearch.index.live.state.State` for the flags."""
        with self._lock:
            number = self._last.number + 1
            state = State(
                current=version.model_copy(update={"number": number}),
                snapshots=snapshots,
                reset=number if reset else self._state.reset,
                moved=moved,
                previous=self._state_number,
            )
            return self._commit("state", state=state).number

    def _projection(self) -> Projection:
        lineage = self._version.lineage
        if self._opened_projection is None or self._opened_projection.mq_fingerprint != lineage.mq_fingerprint:
            self._opened_projection = ModelLock(self.log.folder.uri, None, None).open(lineage)
        return self._opened_projection

    def _named(self, name: str) -> Version:
        found = self._state.snapshots.get(name)
        if found is None:
            known = ", ".join(sorted(self._state.snapshots)) or "none"
            raise InputError(f"No snapshot {name!r} of gallery {self.log.folder.uri}; there are: {known}.")
        return found

    def _enter(self) -> None:
        """Read the gallery, and fence off every earlier writer by committing behind what it wrote."""
        for _ in range(_ATTEMPTS):
            self._read()
            if self._append("open", None, None) is not None:
                return
        raise WriterConflictError(
            f"{self.lease.holder!r} (fence {self.lease.fence}) could not get a word in at {self.log.folder.uri}: others go on writing. "
            "Stop them and try again."
        )

    def _read(self) -> None:
        history = self.log.history()
        self._last, self._state, self._state_number = history.last, history.state, history.at.number
        self._version = history.version
        self._catalogue = live_catalogue(self.log, self._version, {entry.number: entry for entry in history.later})
        self._unclear = False

    def _ready(self) -> None:
        """Check that this is a writer still, and learn what became of a write whose answer was lost."""
        if self._closed.is_set():
            raise WriterConflictError(f"This writer of {self.log.folder.uri} is closed. Open a new one.")
        if self._unclear:
            self.lease.check()
            self._read()

    def _keep_lease(self) -> None:
        """Renew the lease while the process lives: a compaction may take longer than it lasts."""
        while not self._closed.wait(self.lease.duration_s / 3):
            with contextlib.suppress(StorageError):  # the next try, or the next write, will tell
                self.lease.renew()

    def _commit(self, kind: Kind, *, batch: Batch | None = None, state: State | None = None) -> Entry:
        entry = self._append(kind, batch, state)
        if entry is None:
            self._unclear = True  # ours that was thought lost, or a successor's
            self.lease.check()
            raise StorageError(
                f"Entry {self._last.number + 1} of gallery {self.log.folder.uri} turned up late, after its write had failed. Do the same "
                "again: it will go behind it."
            )
        return entry

    def _append(self, kind: Kind, batch: Batch | None, state: State | None) -> Entry | None:
        if self._last.header.fence > self.lease.fence:
            self.lease.check()
        header = Header(
            gallery=self._last.header.gallery,
            number=self._last.number + 1,
            previous=self._last.sha256,
            fence=self.lease.fence,
            nonce=uuid.uuid4().hex,
            time=time.time(),
            kind=kind,
            deleted=batch.deleted if batch else (),
            state=state,
        )
        self._unclear = True
        entry = self.log.append(header, batch)
        if entry is None:
            return None
        # A writer that slept may have written into a gap that its successor collected. Only now is it certain that none was there.
        self.lease.check()
        self._unclear = False
        self._last = entry
        if state is not None:
            self._state, self._state_number, self._version = state, entry.number, state.current
        else:
            self._version = self._version.after(entry.number)
            if batch is not None:
                self._catalogue.apply(entry.number, batch)
        return entry
