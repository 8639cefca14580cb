"""The log of a gallery: numbered, immutable entries at a URI."""

from __future__ import annotations

from dataclasses import dataclass

from chatsearch.errors import CorruptArtefactError, InputError, MissingInputError
from chatsearch.index.live.batch import Batch
from chatsearch.index.live.entry import Entry, Header, decode, encode
from chatsearch.index.live.place import LOG, SUFFIX
from chatsearch.index.live.state import State, Version
from chatsearch.storage import Folder

_ATTEMPTS = 5
"""Times to start over when entries are collected while they are read."""


def entry_name(number: int) -> str:
    """File of an entry."""
    return f"{LOG}/{number:020d}{SUFFIX}"


@dataclass(frozen=True)
class History:
    """The newest state up to some entry, and the entries behind it."""

    state: State
    at: Entry
    """The entry that holds the state."""
    later: tuple[Entry, ...]

    @property
    def last(self) -> Entry:
        """The newest entry."""
        return self.later[-1] if self.later else self.at

    @property
    def version(self) -> Version:
        """What all the entries make."""
        version = self.state.current
        for entry in self.later:
            version = version.after(entry.number)
        return version


class Log:
    """Reads and appends entries. Holds nothing but the place and the identity of the gallery."""

    def __init__(self, folder: Folder) -> None:
        self.folder = folder
        self._gallery: str | None = None

    def numbers(self) -> list[int]:
        """Numbers of all entries there are, in order. Those that no version needs any more may be gone."""
        names = self.folder.list(LOG)
        stems = [name.removeprefix(f"{LOG}/").removesuffix(SUFFIX) for name in names if name.endswith(SUFFIX)]
        return sorted(int(stem) for stem in stems if stem.isdecimal())

    def read(self, number: int) -> Entry:
        """One entry, checked.

        Raises:
            MissingInputError: there is none (yet, or any more).
            CorruptArtefactError: it is damaged, or the entry of another place or gallery.
        """
        where = self.folder.path(entry_name(number))
        entry = decode(self.folder.read_bytes(entry_name(number)), where)
        header = entry.header
        self._gallery = self._gallery or header.gallery
        if (header.number, header.gallery) != (number, self._gallery):
            raise CorruptArtefactError(
                f"{where} holds entry {header.number} of gallery {header.gallery}, not {number} of {self._gallery}: objects were "
                "swapped. Restore the folder from a copy of the store."
            )
        return entry

    def has(self, number: int) -> bool:
        """Whether there is an entry of this number."""
        return self.folder.exists(entry_name(number))

    def append(self, header: Header, batch: Batch | None) -> Entry | None:
        """Write an entry under its number; None if another writer's is there.

        Raises:
            StorageError: the store failed; the entry may or may not be there.
        """
        data = encode(header, batch)
        if not self.folder.create(entry_name(header.number), data):
            return None
        return decode(data, self.folder.path(entry_name(header.number)))

    def remove(self, number: int) -> None:
        """Delete an entry that no version needs."""
        self.folder.delete(entry_name(number))

    def history(self, upto: int | None = None) -> History:
        """The newest state and what follows it, up to an entry or to the newest of all.

        Raises:
            MissingInputError: there is no gallery.
            InputError: version ``upto`` is not kept any more, or not there yet.
            CorruptArtefactError: an entry is damaged or missing in the middle.
        """
        problem: MissingInputError | None = None
        for _ in range(_ATTEMPTS):
            numbers = self.numbers()
            if not numbers:
                raise MissingInputError(
                    f"No gallery at {self.folder.uri}. Create it: python -m jobs.gallery --recipe create "
                    f"--set gallery={self.folder.uri} --set index=INDEX"
                )
            if upto is not None and upto not in numbers:
                raise InputError(
                    f"Version {upto} of gallery {self.folder.uri} is not kept; there are {len(numbers)} entries from {numbers[0]} to "
                    f"{numbers[-1]}. Name one of them or a snapshot."
                )
            try:
                return self._walk_back(numbers[-1] if upto is None else upto)
            except MissingInputError as error:  # collected between listing and reading, or really lost
                problem = error
        if upto is not None:
            raise InputError(
                f"Version {upto} of gallery {self.folder.uri} is not kept whole any more ({problem}). Name a later one or a snapshot."
            ) from problem
        raise CorruptArtefactError(
            f"The log of {self.folder.uri} has a hole: {problem} Restore the object from a copy of the store."
        ) from problem

    def _walk_back(self, number: int) -> History:
        later: list[Entry] = []
        while True:
            entry = self.read(number)
            if later:
                check_order(entry, later[-1])
            if entry.header.state is not None:
                return History(entry.header.state, entry, tuple(reversed(later)))
            later.append(entry)
            number -= 1


def check_order(earlier: Entry, later: Entry) -> None:
    """Check that one entry was written right behind the other.

    Raises:
        CorruptArtefactError: it was not.
    """
    if later.header.previous != earlier.sha256 or later.header.fence < earlier.header.fence:
        raise CorruptArtefactError(
            f"Entries {earlier.number} and {later.number} of gallery {later.header.gallery} do not follow each other: one of them was "
            "replaced. Restore the folder from a copy of the store."
        )
