"""Reading document shards: documents by number, pictures by content hash.

The format is described in :mod:`chatsearch.data.part`. Documents of a part, and where each picture lies, are mapped from the
local cache (:mod:`chatsearch.data.decoded`). Of pictures a row group is read once and a few are kept for readers that go through in order; from
then on it is known where in the file each of its pictures lies, and a reader that jumps about reads single pictures.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import threading
from collections import OrderedDict
from collections.abc import Collection, Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from chatsearch.data.decoded import decoded
from chatsearch.data.part import document_of, file_name
from chatsearch.errors import CorruptArtefactError, InputError, MissingInputError, StorageError
from chatsearch.kinds import DOCUMENT_SHARDS
from chatsearch.manifest import Artefact, open_artefact
from chatsearch.storage import is_remote
from chatsearch.types import Document, Kind
from chatsearch.types import content_hash as digest_of

_GROUPS_KEPT = 8
_HEAD = 64
"""Bytes of a picture by which it is looked for; all of them are compared where it is found."""


class DocumentShards:
    """A finished artefact of kind ``document-shards``. Safe to share between threads; reopened by URI when pickled."""

    def __init__(self, artefact: Artefact) -> None:
        self.artefact = artefact
        facts = artefact.manifest.facts
        self._parts: list[int] = facts["parts"]
        self._starts = np.concatenate([[0], np.cumsum(facts["documents_per_part"])])
        self._tables: dict[int, pa.Table] = {}

    @classmethod
    def open(cls, uri: str) -> DocumentShards:
        """Open finished shards.

        Raises:
            IncompleteArtefactError: nothing finished lies there.
            FingerprintMismatchError: it is an artefact of another kind.
            CorruptArtefactError: a file is missing or damaged.
        """
        return cls(open_artefact(uri, DOCUMENT_SHARDS))

    def __reduce__(self) -> tuple[object, ...]:
        return DocumentShards.open, (self.artefact.uri,)

    @property
    def fingerprint(self) -> str:
        """What the shards are."""
        return self.artefact.fingerprint

    @property
    def num_documents(self) -> int:
        """Documents in all."""
        return int(self._starts[-1])

    @property
    def kinds(self) -> dict[str, int]:
        """Documents of each kind."""
        return dict(self.artefact.manifest.facts["kinds"])

    @property
    def splits(self) -> dict[str, int]:
        """Documents of each split."""
        return dict(self.artefact.manifest.facts["splits"])

    @functools.cached_property
    def images(self) -> ImageStore:
        """The pictures that the documents name."""
        return ImageStore(self.artefact)

    def require_split(self, split: str) -> None:
        """Refuse shards that hold documents of any other split.

        Raises:
            InputError: naming the other splits and their counts.
        """
        others = {name: count for name, count in sorted(self.splits.items()) if name != split}
        if others:
            held = ", ".join(f"{count} {name}" for name, count in others.items())
            raise InputError(
                f"{self.artefact.uri} holds {held} documents where only {split} is allowed. Prepare it again with the corpus' "
                f"split={split}."
            )

    def document(self, index: int) -> Document:
        """The document at ``index``, from 0 to ``num_documents - 1``, in corpus order."""
        if not 0 <= index < self.num_documents:
            raise InputError(f"{self.artefact.uri} holds {self.num_documents} documents; there is no number {index}.")
        part = int(np.searchsorted(self._starts, index, side="right")) - 1
        row = self._table(part).slice(index - int(self._starts[part]), 1)
        return document_of(row.to_pylist()[0])

    def documents(self, kinds: Collection[Kind] | None = None) -> Iterator[Document]:
        """All documents, or those of some kinds, in corpus order."""
        for part in range(len(self._parts)):
            table = self._table(part)
            if kinds is not None:
                table = table.filter(pc.is_in(table["kind"], pa.array([str(k) for k in kinds], pa.string())))
            for batch in table.to_batches(max_chunksize=256):
                yield from map(document_of, batch.to_pylist())

    def select(self, kinds: Collection[Kind]) -> NDArray[np.int64]:
        """Indices of the documents of some kinds, ascending; of all documents when ``kinds`` is empty."""
        wanted = {str(k) for k in kinds}
        if not wanted or wanted >= set(self.kinds):
            return np.arange(self.num_documents)
        values = pa.array(sorted(wanted), pa.string())
        found = [
            np.flatnonzero(pc.is_in(self._table(part)["kind"], values).to_numpy()) + self._starts[part]
            for part in range(len(self._parts))
        ]
        return np.concatenate(found) if found else np.zeros(0, dtype=np.int64)

    def showing(self, indices_N: NDArray[np.int64], hashes: Sequence[str]) -> tuple[NDArray[np.int64], int]:
        """Those of some documents that show one of some pictures, ascending, and how many of the pictures they show."""
        wanted = pa.array(sorted(set(hashes)), pa.string())
        documents, shown = [np.zeros(0, dtype=np.int64)], set[str]()
        for part in range(len(self._parts)):
            segments = self._table(part)["segments"].combine_chunks()
            pictures = segments.flatten().field("image")
            of_S = pc.list_parent_indices(segments).to_numpy(zero_copy_only=False) + self._starts[part]
            found_S = pc.is_in(pictures, wanted).to_numpy(zero_copy_only=False) & np.isin(of_S, indices_N)
            documents.append(np.unique(of_S[found_S]))
            shown.update(pc.unique(pictures.filter(pa.array(found_S))).to_pylist())
        return np.concatenate(documents), len(shown)

    def _table(self, part: int) -> pa.Table:
        # Two threads may read a part at once; they store equal tables, so no lock is needed.
        if part not in self._tables:
            name = file_name("documents", self._parts[part])
            self._tables[part] = decoded(
                f"documents-{self.artefact.manifest.files[name].sha256}",
                lambda: pq.read_table(pa.BufferReader(self.artefact.read_checked(name))),
            )
        return self._tables[part]


class ImageStore:
    """Encoded pictures by content hash, from the image files of document shards. Safe to share between threads."""

    def __init__(self, artefact: Artefact) -> None:
        self.artefact = artefact
        self._parts: list[int] = artefact.manifest.facts["parts"]
        self._lock = threading.Lock()
        self._metadata: dict[int, pq.FileMetaData] = {}
        self._firsts: dict[int, NDArray[np.int64]] = {}
        self._groups: OrderedDict[tuple[int, int], pa.ChunkedArray] = OrderedDict()
        self._spans: dict[tuple[int, int], NDArray[np.int64] | None] = {}

    @classmethod
    def open(cls, uri: str) -> ImageStore:
        """The pictures of finished document shards; errors as :meth:`DocumentShards.open`."""
        return cls(open_artefact(uri, DOCUMENT_SHARDS))

    def __reduce__(self) -> tuple[object, ...]:
        return ImageStore.open, (self.artefact.uri,)

    def __len__(self) -> int:
        return len(self._index[0])

    def __contains__(self, content_hash: str) -> bool:
        return self._find(content_hash) is not None

    def hashes(self) -> list[str]:
        """Content hashes of all pictures, sorted, each once."""
        return [h.decode() for h in self._index[0].tolist()]

    def get(self, content_hash: str) -> bytes:
        """The encoded bytes of one picture.

        Raises:
            MissingInputError: no picture of that hash is here.
            CorruptArtefactError: what lies there is another picture.
        """
        place = self._find(content_hash)
        if place is None:
            raise MissingInputError(
                f"No picture {content_hash!r} in {self.artefact.uri}, which holds {len(self)}. Check that the documents or the "
                "gallery come from these shards."
            )
        part, row = place
        with self._lock:
            data = self._picture(part, row)
        if data is None or digest_of(data) != content_hash:
            raise CorruptArtefactError(
                f"Picture {content_hash} in {self.artefact.folder.path(self._name(part))} is damaged. Restore the file or prepare the shards "
                "again with --set overwrite=true."
            )
        return data

    def _find(self, content_hash: str) -> tuple[int, int] | None:
        hashes, places = self._index
        wanted = np.bytes_(content_hash.encode("ascii", "replace"))
        at = int(np.searchsorted(hashes, wanted))
        if at == len(hashes) or hashes[at] != wanted:
            return None
        return int(places[at, 0]), int(places[at, 1])

    @functools.cached_property
    def _index(self) -> tuple[NDArray[np.bytes_], NDArray[np.int64]]:
        """Sorted distinct hashes, and (part, row) of the first copy of each; both mapped."""
        files = self.artefact.manifest.files
        content = "".join(files[self._name(part)].sha256 for part in range(len(self._parts)))
        table = decoded(f"pictures-{hashlib.sha256(content.encode()).hexdigest()}", self._places)
        hashes, places = (
            np.frombuffer(table[name].chunk(0).buffers()[1] if len(table) else b"", np.uint8)
            for name in ("hash", "place")
        )
        return hashes.view("S64"), places.view(np.int64).reshape(-1, 2)

    def _places(self) -> pa.Table:
        columns, places = [np.zeros(0, dtype="S64")], [np.zeros((0, 2), dtype=np.int64)]
        for part in range(len(self._parts)):
            with self._opened(part) as file:
                names = pq.read_table(file, columns=["content_hash"])["content_hash"].to_numpy()
            columns.append(names.astype("S64"))
            places.append(np.stack([np.full(len(names), part), np.arange(len(names))], axis=1))
        hashes, first = np.unique(np.concatenate(columns), return_index=True)
        cells = {"hash": hashes, "place": np.ascontiguousarray(np.concatenate(places)[first])}
        widths = {"hash": 64, "place": 16}
        return pa.table(
            {
                name: pa.FixedSizeBinaryArray.from_buffers(
                    pa.binary(widths[name]), len(hashes), [None, pa.py_buffer(cell.view(np.uint8).reshape(-1))]
                )
                for name, cell in cells.items()
            }
        )

    def _name(self, part: int) -> str:
        return file_name("images", self._parts[part])

    @contextlib.contextmanager
    def _opened(self, part: int) -> Iterator[pa.NativeFile]:
        """A file of pictures for random access. It is never read whole, so its checksum does not speak for it."""
        with self.artefact.folder.seekable(self._name(part)) as file:
            try:
                yield file
            except (pa.ArrowException, OSError, ValueError, LookupError) as error:
                detail = " ".join(str(error).split())[:200]
                if isinstance(error, OSError) and is_remote(self.artefact.uri):
                    raise StorageError(
                        f"Cannot read {self.artefact.folder.path(self._name(part))}: {detail}. Check the credentials and that the store "
                        "is up, then run the same command again."
                    ) from error
                raise self._unreadable(part, detail) from error

    def _unreadable(self, part: int, detail: str) -> CorruptArtefactError:
        return CorruptArtefactError(
            f"{self.artefact.folder.path(self._name(part))} is damaged: {detail}. Restore the file or prepare the shards again with "
            "--set overwrite=true."
        )

    def _picture(self, part: int, row: int) -> bytes | None:
        """The bytes of one row: from a group in memory, else from its place in the file, else after reading its group."""
        group, first = self._group_of(part, row)
        span_N2 = self._spans.get((part, group))
        if span_N2 is not None and (part, group) not in self._groups and row - first < len(span_N2):
            start, length = span_N2[row - first].tolist()
            return self.artefact.folder.read_range(self._name(part), start, length)
        found: list[bytes | None] = self._read(part, group).slice(row - first, 1).to_pylist()
        return found[0] if found else None

    def _group_of(self, part: int, row: int) -> tuple[int, int]:
        """Row group that holds a row, and the first row of that group."""
        if part not in self._metadata:
            with self._opened(part) as file:
                metadata = pq.read_metadata(file)
                sizes = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
            self._firsts[part] = np.cumsum([0, *sizes])
            self._metadata[part] = metadata
        firsts = self._firsts[part]
        if row >= firsts[-1]:
            raise self._unreadable(part, f"it has {firsts[-1]} rows, picture {row} is asked for")
        group = int(np.searchsorted(firsts, row, side="right")) - 1
        return group, int(firsts[group])

    def _read(self, part: int, group: int) -> pa.ChunkedArray:
        key = (part, group)
        if key not in self._groups:
            with self._opened(part) as file:
                reader = pq.ParquetFile(file, metadata=self._metadata[part])
                pictures = reader.read_row_group(group, columns=["bytes"])["bytes"]
                if key not in self._spans:
                    self._spans[key] = _spans(file, self._metadata[part].row_group(group), pictures)
            self._groups[key] = pictures
        self._groups.move_to_end(key)
        while len(self._groups) > _GROUPS_KEPT:
            self._groups.popitem(last=False)
        return self._groups[key]


def _spans(file: pa.NativeFile, group: pq.RowGroupMetaData, pictures: pa.ChunkedArray) -> NDArray[np.int64] | None:
    """First byte in the file and length of each picture of a row group; None where they do not lie there as they are.

    Parquet keeps uncompressed byte strings whole and in order, each behind its length, in the dictionary page and in plain
    data pages alike; between two of them there is at most the header of a page.
    """
    column = next((c for c in map(group.column, range(group.num_columns)) if c.path_in_schema == "bytes"), None)
    if column is None:
        return None
    begin = column.dictionary_page_offset if column.has_dictionary_page else column.data_page_offset
    raw = file.read_at(column.total_compressed_size, begin)
    spans, at = np.empty((len(pictures), 2), dtype=np.int64), 0
    for number, picture in enumerate(pictures):
        data: bytes = picture.as_py() or b""
        at = raw.find(len(data).to_bytes(4, "little") + data[:_HEAD], at) + 4
        if not data or at < 4 or raw[at : at + len(data)] != data:
            return None
        spans[number] = begin + at, len(data)
        at += len(data)
    return spans
