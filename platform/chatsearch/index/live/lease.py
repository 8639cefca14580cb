"""Who may write to a gallery: one lease object a writer, each with the next fencing number.

The lease keeps a second writer out politely, by name. What makes it impossible is the log, see the package.
"""

from __future__ import annotations

import datetime
import threading
import time
import uuid

from pydantic import BaseModel, ConfigDict, ValidationError

from chatsearch.errors import CorruptArtefactError, InputError, MissingInputError, WriterConflictError
from chatsearch.index.live.sealed import seal, unseal
from chatsearch.storage import Folder

_PREFIX = "lease"
_SUFFIX = ".json"
_KEPT = 1000
"""Old leases kept: a writer that sleeps through more successors than this would not find its own."""


class LeaseRecord(BaseModel):
    """What a lease object holds."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    fence: int
    holder: str
    nonce: str
    expires: float
    """Seconds since 1970 on the holder's clock; 0 once it let go."""

    @property
    def expires_at(self) -> str:
        """The time it ends, for people."""
        return datetime.datetime.fromtimestamp(self.expires, datetime.UTC).isoformat(timespec="seconds")


class Lease:
    """The right to write, held until it is overtaken."""

    def __init__(self, folder: Folder, record: LeaseRecord, duration_s: float) -> None:
        self._folder = folder
        self._record = record
        self._lock = threading.Lock()
        self.duration_s = duration_s
        """Seconds it lasts without being renewed."""

    @classmethod
    def acquire(cls, folder: Folder, holder: str, duration_s: float, *, take_over: bool = False) -> Lease:
        """Take the next fencing number.

        Args:
            folder: the gallery's.
            holder: a name that says to others who this is.
            duration_s: seconds without a write after which another writer may take over.
            take_over: do not ask who holds it.

        Raises:
            InputError: no holder is named, or the duration is not positive.
            WriterConflictError: somebody holds the lease; names holder and expiry.
            CorruptArtefactError: the newest lease is damaged.
        """
        if not holder or not duration_s > 0:
            raise InputError(
                f"A writer needs a name and a lease of more than 0 s; got holder {holder!r} and {duration_s} s."
            )
        while True:
            fences = _fences(folder)
            newest = _read(folder, fences[-1]) if fences and not take_over else None
            if newest is not None and newest.expires > time.time():
                raise _refusal(folder, newest)
            fence = fences[-1] + 1 if fences else 1
            record = LeaseRecord(fence=fence, holder=holder, nonce=uuid.uuid4().hex, expires=time.time() + duration_s)
            if folder.create(_name(fence), _encode(record)):
                return cls(folder, record, duration_s)

    @property
    def fence(self) -> int:
        """The fencing number."""
        return self._record.fence

    @property
    def holder(self) -> str:
        """The name others are shown."""
        return self._record.holder

    def check(self) -> None:
        """Check that no other writer took over. Fencing numbers have no gaps, so one look is enough.

        Raises:
            WriterConflictError: naming who did.
        """
        if not self._folder.exists(_name(self.fence + 1)):
            return
        try:
            newest = _read(self._folder, _fences(self._folder)[-1])
        except CorruptArtefactError as error:
            raise WriterConflictError(
                f"{self.holder!r} (fence {self.fence}) is not the writer of {self._folder.uri} any more: {error}"
            ) from error
        raise WriterConflictError(
            f"{self.holder!r} (fence {self.fence}) is not the writer of {self._folder.uri} any more: {newest.holder!r} took over with "
            f"fence {newest.fence}. What was not acknowledged may not be there; open a new writer and look."
        )

    def renew(self) -> None:
        """Put the end of the lease off, unless it was let go."""
        with self._lock:
            if self._record.expires:
                self._write(time.time() + self.duration_s)

    def release(self) -> None:
        """Let the next writer in at once."""
        with self._lock:
            self._write(0.0)

    def _write(self, expires: float) -> None:
        # Nobody else writes this object: a successor writes the next.
        self._record = self._record.model_copy(update={"expires": expires})
        self._folder.write_bytes(_name(self.fence), _encode(self._record))


def remove_old_leases(folder: Folder) -> None:
    """Delete all but the newest thousand: a writer looks for the one behind its own."""
    for fence in _fences(folder)[:-_KEPT]:
        folder.delete(_name(fence))


def _name(fence: int) -> str:
    return f"{_PREFIX}/{fence:010d}{_SUFFIX}"


def _fences(folder: Folder) -> list[int]:
    stems = [name.removeprefix(f"{_PREFIX}/").removesuffix(_SUFFIX) for name in folder.list(_PREFIX)]
    return sorted(int(stem) for stem in stems if stem.isdecimal())


def _encode(record: LeaseRecord) -> bytes:
    return seal(record.model_dump_json().encode())


def _read(folder: Folder, fence: int) -> LeaseRecord:
    where = folder.path(_name(fence))
    try:
        return LeaseRecord.model_validate_json(unseal(folder.read_bytes(_name(fence)), where))
    except (ValidationError, CorruptArtefactError, MissingInputError) as error:
        raise CorruptArtefactError(
            f"Cannot tell who writes to {folder.uri}: {' '.join(str(error).split())[:300]} If no writer runs, take over: open "
            "the writer with take_over=True."
        ) from error


def _refusal(folder: Folder, held: LeaseRecord) -> WriterConflictError:
    return WriterConflictError(
        f"Gallery {folder.uri} is being written by {held.holder!r} (fence {held.fence}) until {held.expires_at}, "
        f"{held.expires - time.time():.0f} s from now, longer if it goes on writing. Send changes through that writer, or wait."
    )
