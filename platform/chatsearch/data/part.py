"""One part of document shards: written by one task, whole or not at all.

    documents/part-00000.parquet   document_id, kind, corpus, split, segments, attributes (JSON)
    images/part-00000.parquet      content_hash, bytes, width, height; each picture once a part
    rejected/part-00000.jsonl      key and reason of each record set aside; only if there are any
    parts/part-00000.json          counts and checksums of the above, written last

The same records give the same bytes: fixed Parquet options, no times, no host names.
"""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, ValidationError

from chatsearch.corpora.base import Rejected, Sample
from chatsearch.corpora.images import check_image
from chatsearch.errors import BadImageError, InputError
from chatsearch.manifest import Artefact, FileEntry, Output, file_entry, hash_ids
from chatsearch.storage import Folder
from chatsearch.types import Document, Kind, Role, Segment, content_hash

DOCUMENT_SCHEMA = pa.schema(
    [
        ("document_id", pa.string()),
        ("kind", pa.string()),
        ("corpus", pa.string()),
        ("split", pa.string()),
        (
            "segments",
            pa.list_(
                pa.struct([("role", pa.string()), ("loss", pa.bool_()), ("text", pa.string()), ("image", pa.string())])
            ),
        ),
        ("attributes", pa.string()),
    ]
)
IMAGE_SCHEMA = pa.schema(
    [("content_hash", pa.string()), ("bytes", pa.binary()), ("width", pa.int32()), ("height", pa.int32())]
)
_ROWS_PER_GROUP = 1024
# One picture is read with its whole row group: small groups keep random access cheap.
_BYTES_PER_GROUP = 4 << 20


class Part(BaseModel):
    """What a finished part holds."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    part: int
    num_documents: int
    num_images: int
    num_image_bytes: int
    num_rejected: int
    kinds: dict[str, int]
    splits: dict[str, int]
    first_reasons: list[str]
    """Up to three reasons of rejection, with their keys."""
    files: dict[str, FileEntry]


def file_name(folder: str, part: int) -> str:
    """Name of one file of a part: folder is ``documents``, ``images``, ``rejected`` or ``parts``."""
    ending = {"documents": "parquet", "images": "parquet", "rejected": "jsonl", "parts": "json"}[folder]
    return f"{folder}/part-{part:05d}.{ending}"


def finished_part(folder: Folder, part: int, sizes: Mapping[str, int]) -> Part | None:
    """The part's marker if it is there and the files it names have their size, else None.

    Args:
        folder: the shards.
        part: its number.
        sizes: bytes of every file of the folder.
    """
    name = file_name("parts", part)
    if name not in sizes:
        return None
    try:
        marker = Part.model_validate_json(folder.read_bytes(name))
    except ValidationError:
        return None  # an older format: the part is written again
    whole = all(sizes.get(file) == entry.num_bytes for file, entry in marker.files.items())
    return marker if whole else None


def write_part(folder: Folder, part: int, records: Iterable[Sample | Rejected]) -> Part:
    """Write the records of one part, setting bad ones aside, and last its marker."""
    kinds: Counter[str] = Counter()
    splits: Counter[str] = Counter()
    rejected: list[Rejected] = []
    known: set[str] = set()
    num_image_bytes = 0
    with (
        _table(folder, file_name("documents", part), DOCUMENT_SCHEMA, compression="zstd") as documents,
        _table(folder, file_name("images", part), IMAGE_SCHEMA, compression="none") as images,
    ):
        for record in records:
            sizes = record if isinstance(record, Rejected) else _check(record, known)
            if isinstance(sizes, Rejected):
                rejected.append(Rejected(_printable(sizes.key), _printable(sizes.reason)))
                continue
            assert isinstance(record, Sample)
            for name, (width, height) in sizes.items():
                data = record.images[name]
                images.add({"content_hash": name, "bytes": data, "width": width, "height": height}, len(data))
                num_image_bytes += len(data)
            known |= sizes.keys()
            documents.add(document_row(record.document), 0)
            kinds[str(record.document.kind)] += 1
            splits[record.document.split] += 1
    names = [file_name("documents", part), file_name("images", part)]
    if rejected:
        names.append(file_name("rejected", part))
        lines = [json.dumps({"key": r.key, "reason": r.reason}, ensure_ascii=False) + "\n" for r in rejected]
        folder.write_bytes(names[-1], "".join(lines).encode())
    marker = Part(
        part=part,
        num_documents=kinds.total(),
        num_images=len(known),
        num_image_bytes=num_image_bytes,
        num_rejected=len(rejected),
        kinds=dict(sorted(kinds.items())),
        splits=dict(sorted(splits.items())),
        first_reasons=[f"{r.key}: {r.reason}" for r in rejected[:3]],
        files={name: file_entry(folder, name) for name in names},
    )
    folder.write_bytes(file_name("parts", part), marker.model_dump_json(indent=1).encode())
    return marker


def commit_shards(output: Output, corpus: str, parts: Sequence[Part]) -> Artefact:
    """Write the manifest over finished parts, in order, which makes them document shards.

    Raises:
        InputError: two documents have one id.
    """
    folder = output.folder
    files = {name: entry for part in parts for name, entry in part.files.items()}
    files |= {name: file_entry(folder, name) for name in (file_name("parts", part.part) for part in parts)}
    return output.commit(
        counts={
            "documents": sum(p.num_documents for p in parts),
            "images": sum(p.num_images for p in parts),
            "image_bytes": sum(p.num_image_bytes for p in parts),
            "rejected": sum(p.num_rejected for p in parts),
            "parts": len(parts),
        },
        id_hash=_hash_unique_ids(folder, parts),
        facts={
            "corpus": corpus,
            "kinds": _summed([part.kinds for part in parts]),
            "splits": _summed([part.splits for part in parts]),
            "parts": [part.part for part in parts],
            "documents_per_part": [part.num_documents for part in parts],
        },
        files=files,
    )


def _hash_unique_ids(folder: Folder, parts: Sequence[Part]) -> str:
    seen: set[str] = set()
    for part in parts:
        with folder.seekable(file_name("documents", part.part)) as file:
            for name in pq.read_table(file, columns=["document_id"])["document_id"].to_pylist():
                if name in seen:
                    raise InputError(f"Two documents of the corpus have the id {name!r}. Make the ids unique.")
                seen.add(name)
    return hash_ids(seen)


def _summed(counts: Sequence[Mapping[str, int]]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for count in counts:
        total.update(count)
    return dict(sorted(total.items()))


def document_row(document: Document) -> dict[str, Any]:
    """A document as a row of ``DOCUMENT_SCHEMA``."""
    return {
        "document_id": document.document_id,
        "kind": str(document.kind),
        "corpus": document.corpus,
        "split": document.split,
        "segments": [
            {"role": str(s.role), "loss": s.loss, "text": s.text, "image": s.image} for s in document.segments
        ],
        "attributes": json.dumps(dict(document.attributes), sort_keys=True, ensure_ascii=False),
    }


def document_of(row: Mapping[str, Any]) -> Document:
    """The inverse of :func:`document_row`."""
    segments = tuple(
        Segment(text=s["text"], image=s["image"], role=Role(s["role"]), loss=s["loss"]) for s in row["segments"]
    )
    return Document(
        document_id=row["document_id"],
        kind=Kind(row["kind"]),
        segments=segments,
        corpus=row["corpus"],
        split=row["split"],
        attributes=json.loads(row["attributes"]),
    )


def _check(sample: Sample, known: Set[str]) -> dict[str, tuple[int, int]] | Rejected:
    """Width and height of the sample's pictures that are new to the part, or why the sample is set aside."""
    document = sample.document
    if not document.segments:
        return Rejected(document.document_id, "Document has no segments.")
    if not _is_unicode(document):
        return Rejected(document.document_id, "Document holds half of a surrogate pair, which is no character.")
    if any(s.text is not None and not s.text.strip() for s in document.segments):
        return Rejected(document.document_id, "Document holds an empty text.")
    sizes: dict[str, tuple[int, int]] = {}
    for name in dict.fromkeys(document.images()):
        if name in known:
            continue
        data = sample.images.get(name)
        if data is None or content_hash(data) != name:
            return Rejected(document.document_id, f"Picture {name[:12]} does not come with the document.")
        try:
            sizes[name] = check_image(data)
        except BadImageError as error:
            return Rejected(document.document_id, str(error))
    return sizes


def _is_unicode(document: Document) -> bool:
    """Whether all text of a document can be written: JSON may spell lone surrogates, and Parquet, like UTF-8, has none."""
    texts = [document.document_id, document.split, *(segment.text or "" for segment in document.segments)]
    try:
        "".join([*texts, *document.attributes, *document.attributes.values()]).encode()
    except UnicodeEncodeError:
        return False
    return True


def _printable(text: str) -> str:
    """The text with what UTF-8 cannot hold spelled out: a name of bytes that are no text, for one."""
    return text.encode(errors="backslashreplace").decode()


class _Rows:
    """Rows gathered into row groups of bounded count and weight."""

    def __init__(self, writer: pq.ParquetWriter) -> None:
        self._writer = writer
        self._rows: list[dict[str, Any]] = []
        self._weight = 0

    def add(self, row: dict[str, Any], num_bytes: int) -> None:
        """Take one row that holds ``num_bytes`` of picture."""
        self._rows.append(row)
        self._weight += num_bytes
        if len(self._rows) >= _ROWS_PER_GROUP or self._weight >= _BYTES_PER_GROUP:
            self.flush()

    def flush(self) -> None:
        """Write what is held as one row group."""
        if self._rows:
            self._writer.write_table(pa.Table.from_pylist(self._rows, self._writer.schema))
        self._rows, self._weight = [], 0


@contextlib.contextmanager
def _table(folder: Folder, name: str, schema: pa.Schema, *, compression: str) -> Iterator[_Rows]:
    """Rows of one Parquet file, which appears whole when the block is left without an error."""
    with folder.writing(name) as local, pq.ParquetWriter(local, schema, compression=compression) as writer:
        rows = _Rows(writer)
        yield rows
        rows.flush()
