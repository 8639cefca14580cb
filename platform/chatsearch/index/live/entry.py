"""One commit of a gallery's log, as bytes.

    magic | length of the header, 8 bytes | header, JSON | items of the batch, an Arrow stream, or nothing | sha256 of all before

Shape suffixes: N items of the batch, D width of f_CLS.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
from pydantic import BaseModel, ConfigDict, ValidationError

from chatsearch.errors import CorruptArtefactError
from chatsearch.index.live.batch import Batch
from chatsearch.index.live.sealed import seal, unseal
from chatsearch.index.live.state import State
from chatsearch.types import GalleryItem

_MAGIC = b"chatsearch log 1\n"
_LENGTH_BYTES = 8

Kind = Literal["open", "batch", "state"]


class Header(BaseModel):
    """What an entry is."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    gallery: str
    """Identity of the gallery, drawn when it was created."""
    number: int
    previous: str
    """sha256 of the entry before; empty in the first."""
    fence: int
    """Fencing number of the writer."""
    nonce: str
    """Drawn anew for each entry, so that no two writers ever write the same bytes."""
    time: float
    """Seconds since 1970 on the writer's clock."""
    kind: Kind
    deleted: tuple[str, ...] = ()
    state: State | None = None


@dataclass(frozen=True)
class Entry:
    """A commit, read or to be written."""

    header: Header
    batch: Batch | None
    """Only in entries of kind ``batch``."""
    sha256: str
    """Of its bytes, in hex; what the next entry calls ``previous``."""

    @property
    def number(self) -> int:
        """Its place in the log, and the version it makes."""
        return self.header.number


def encode(header: Header, batch: Batch | None) -> bytes:
    """The bytes of an entry."""
    head = header.model_dump_json().encode()
    body = _items_to_bytes(batch) if batch and batch.items else b""
    return seal(_MAGIC + len(head).to_bytes(_LENGTH_BYTES, "big") + head + body)


def decode(data: bytes, where: str) -> Entry:
    """The entry in bytes that were read from ``where``.

    Raises:
        CorruptArtefactError: naming the place, if the bytes are damaged or no entry of this version.
    """
    body = unseal(data, where)
    sha256 = hashlib.sha256(data).hexdigest()
    start = len(_MAGIC) + _LENGTH_BYTES
    try:
        if not body.startswith(_MAGIC):
            raise ValueError(f"it starts with {body[: len(_MAGIC)]!r}")
        stop = start + int.from_bytes(body[len(_MAGIC) : start], "big")
        header = Header.model_validate_json(body[start:stop])
        batch = _batch_of(header, body[stop:]) if header.kind == "batch" else None
        if (header.state is not None) != (header.kind == "state"):
            raise ValueError(f"an entry of kind {header.kind} {'holds a' if header.state else 'without'} state")
    except (ValidationError, ValueError, KeyError, pa.ArrowException) as error:
        detail = " ".join(str(error).split())[:300]
        raise CorruptArtefactError(
            f"{where} is no log entry of this version: {detail}. Read the gallery with the version that wrote it."
        ) from error
    return Entry(header, batch, sha256)


def _items_to_bytes(batch: Batch) -> bytes:
    num_items, dimension = batch.cls_ND.shape
    table = pa.table(
        {
            "item_id": pa.array([item.item_id for item in batch.items], pa.string()),
            "content_hash": pa.array([item.content_hash for item in batch.items], pa.string()),
            "metadata": pa.array(
                [json.dumps(dict(item.metadata), sort_keys=True) for item in batch.items], pa.string()
            ),
            "f_cls": pa.FixedSizeListArray.from_arrays(pa.array(batch.cls_ND.ravel(), pa.float32()), dimension),
        }
    )
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=max(1, num_items))
    return sink.getvalue().to_pybytes()


def _batch_of(header: Header, body: bytes) -> Batch:
    if not body:
        return Batch((), np.empty((0, 0), np.float32), header.deleted)
    table = pa.ipc.open_stream(pa.py_buffer(body)).read_all().combine_chunks()
    rows = table.column("f_cls").chunk(0)
    cls_ND = rows.flatten().to_numpy().reshape(len(table), rows.type.list_size)
    items = tuple(
        GalleryItem(item_id, content_hash, json.loads(metadata))
        for item_id, content_hash, metadata in zip(
            *(table.column(name).to_pylist() for name in ("item_id", "content_hash", "metadata")), strict=True
        )
    )
    return Batch(items, cls_ND, header.deleted)
