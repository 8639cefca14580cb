"""The feature store: raw f_CLS of every picture of a gallery, one row per content hash, and the gallery's items.

Shape suffixes: N pictures, D width of f_CLS, T visual tokens of a picture, E their width.

    features/part-00000.parquet   content_hash, f_cls fixed_size_list<float32 or float16>[D], tokens fixed_size_binary[T*E*2] (optional)
    thumbnails/part-00000.parquet content_hash, bytes (JPEG), the same rows; only if they were asked for
    rejected/part-00000.jsonl     key and reason of each picture of that part that was set aside; only if there are any
    items/part-00000.parquet      item_id, content_hash, metadata (JSON)

Tokens are float16 in row-major (T, E) order, as bytes: Parquet then hands them over without decoding each number.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from chatsearch.errors import CorruptArtefactError, MissingInputError
from chatsearch.index.items import ItemTable, read_items
from chatsearch.index.vectors import Float32
from chatsearch.kinds import FEATURE_STORE
from chatsearch.manifest import Artefact, open_artefact
from chatsearch.types import GalleryItem

ITEMS = "items/part-00000.parquet"
_SHAPES = "chatsearch.shapes"
_THUMBNAILS_PER_GROUP = 64
"""One thumbnail is read with its whole row group."""


def part_name(part: int) -> str:
    """File of one micro-shard of features."""
    return f"features/part-{part:05d}.parquet"


def thumbnails_name(part: int) -> str:
    """File of the thumbnails of one micro-shard."""
    return f"thumbnails/part-{part:05d}.parquet"


def rejected_name(part: int) -> str:
    """File of what one micro-shard set aside."""
    return f"rejected/part-{part:05d}.jsonl"


def write_part(
    path: str, hashes: Sequence[str], cls_ND: NDArray[np.floating], tokens_NTE: NDArray[np.float16] | None = None
) -> None:
    """Write one micro-shard to a local file; f_CLS in the type it comes in. The same features give the same bytes."""
    num_rows, dimension = cls_ND.shape
    stored = pa.float16() if cls_ND.dtype == np.float16 else pa.float32()
    columns = {
        "content_hash": pa.array(hashes, pa.string()),
        "f_cls": pa.FixedSizeListArray.from_arrays(pa.array(cls_ND.ravel(), stored), dimension),
    }
    shapes: dict[str, Any] = {"dimension": dimension, "token_shape": None}
    if tokens_NTE is not None:
        shapes["token_shape"] = list(tokens_NTE.shape[1:])
        flat_NF = np.ascontiguousarray(tokens_NTE, dtype="<f2").reshape(num_rows, math.prod(tokens_NTE.shape[1:]))
        columns["tokens"] = pa.FixedSizeBinaryArray.from_buffers(
            pa.binary(2 * flat_NF.shape[1]), num_rows, [None, pa.py_buffer(flat_NF)]
        )
    table = pa.table(columns).replace_schema_metadata({_SHAPES: json.dumps(shapes)})
    # Floats of a neural network do not compress, and a dictionary of distinct rows only costs.
    pq.write_table(table, path, compression="none", use_dictionary=False)


def write_thumbnails(path: str, hashes: Sequence[str], thumbnails: Sequence[bytes]) -> None:
    """Write the thumbnails of one micro-shard to a local file."""
    table = pa.table({"content_hash": pa.array(hashes, pa.string()), "bytes": pa.array(thumbnails, pa.binary())})
    pq.write_table(table, path, compression="none", use_dictionary=False, row_group_size=_THUMBNAILS_PER_GROUP)


def float_rows(column: pa.FixedSizeListArray) -> Float32:
    """The rows of a chunk of ``f_cls``, in float32 however they are stored."""
    rows_ND: Float32 = column.flatten().to_numpy().reshape(len(column), column.type.list_size)
    return rows_ND.astype(np.float32, copy=False)


def read_shapes(path: str) -> dict[str, Any]:
    """``dimension`` and ``token_shape`` of a local part file, as the manifest's facts hold them."""
    return json.loads(pq.read_schema(path).metadata[_SHAPES.encode()])


@dataclass(frozen=True)
class Rows:
    """The rows of one part file."""

    hashes: list[str]
    cls_ND: Float32
    tokens_NTE: NDArray[np.float16] | None
    thumbnails: list[bytes] | None


class FeatureStore:
    """A finished feature store. Columns are read when they are first asked for."""

    def __init__(self, artefact: Artefact) -> None:
        self.artefact = artefact
        facts: dict[str, Any] = artefact.manifest.facts
        self.dimension: int = facts["dimension"]
        self.encoder_fingerprint: str = facts["encoder_fingerprint"]
        self.preprocessing_id: str = facts["preprocessing_id"]
        self.images: tuple[str, ...] = tuple(facts["images"])
        """Document shards that hold the pictures."""
        self.token_shape: tuple[int, int] | None = tuple(facts["token_shape"]) if facts["token_shape"] else None
        self.dtype: str = facts.get("dtype", "float32")  # stores of earlier versions do not say
        self.thumbnail_px: int = facts.get("thumbnail_px", 0)
        """Longest side of the thumbnails; 0 where there are none."""

    @classmethod
    def open(cls, uri: str, *, verify: bool = False) -> FeatureStore:
        """Open the store at a URI; with ``verify`` all checksums are recomputed.

        Raises:
            ArtefactError: if there is none, or it is damaged.
        """
        return cls(open_artefact(uri, FEATURE_STORE, verify=verify))

    @property
    def uri(self) -> str:
        """Where it lies."""
        return self.artefact.uri

    @property
    def fingerprint(self) -> str:
        """What it is."""
        return self.artefact.fingerprint

    def __len__(self) -> int:
        return len(self.hashes)

    @property
    def parts(self) -> list[str]:
        """Names of the files of the rows, in order."""
        return sorted(name for name in self.artefact.manifest.files if name.startswith("features/"))

    @cached_property
    def _paths(self) -> list[str]:
        """Local files of the rows, each checked against the manifest before anything of it is read."""
        return [self.artefact.checked_path(name) for name in self.parts]

    def _read(self, columns: list[str]) -> pa.Table:
        return pa.concat_tables([self._read_file(path, columns) for path in self._paths])

    def _read_file(self, path: str, columns: list[str] | None = None) -> pa.Table:
        try:
            return pq.read_table(path, columns=columns, memory_map=True)
        except (pa.ArrowException, OSError) as error:
            raise CorruptArtefactError(
                f"Cannot read the features at {self.uri}: {error}. Make the store again with --set overwrite=true."
            ) from error

    def part_hashes(self, name: str) -> list[str]:
        """Content hashes of the rows of one of the ``parts``, which is read for nothing else."""
        return self._read_file(self.artefact.checked_path(name), ["content_hash"]).column("content_hash").to_pylist()

    def part_cls(self, name: str) -> tuple[list[str], Float32]:
        """Content hashes and raw f_CLS (N, D) of the rows of one of the ``parts``; nothing else of it is read."""
        table = self._read_file(self.artefact.checked_path(name), ["content_hash", "f_cls"])
        chunks = [float_rows(chunk) for chunk in table.column("f_cls").chunks]
        return table.column("content_hash").to_pylist(), _stack([np.empty((0, self.dimension), np.float32), *chunks])

    def part_rows(self, name: str) -> Rows:
        """All rows of one of the ``parts``."""
        table = self._read_file(self.artefact.checked_path(name)).combine_chunks()
        hashes = table.column("content_hash").to_pylist()
        tokens_NTE, thumbnails = None, None
        if self.token_shape is not None:
            tokens = [_binary_rows(chunk, self.token_shape) for chunk in table.column("tokens").chunks]
            tokens_NTE = _stack([np.empty((0, *self.token_shape), np.float16), *tokens])
        if self.thumbnail_px:
            small = self._read_file(self.artefact.checked_path(name.replace("features/", "thumbnails/")))
            self._check_thumbnails(name, small.column("content_hash").to_pylist() == hashes)
            thumbnails = small.column("bytes").to_pylist()
        chunks = [float_rows(chunk) for chunk in table.column("f_cls").chunks]
        cls_ND = _stack([np.empty((0, self.dimension), np.float32), *chunks])
        return Rows(hashes, cls_ND, tokens_NTE, thumbnails)

    def _check_thumbnails(self, name: str, fits: bool) -> None:
        if not fits:
            raise CorruptArtefactError(
                f"The thumbnails of {name} at {self.uri} are of other pictures than its features. Make the store again with "
                "--set overwrite=true."
            )

    def thumbnail(self, content_hash: str) -> bytes | None:
        """A small JPEG of a picture, or None if the store was made without them.

        Raises:
            MissingInputError: if the store does not hold the picture.
        """
        row = self.row_of(content_hash)
        if not self.thumbnail_px:
            return None
        part = int(np.searchsorted(self._first_rows, row, side="right")) - 1
        name = self.parts[part].replace("features/", "thumbnails/")
        group, place = divmod(row - int(self._first_rows[part]), _THUMBNAILS_PER_GROUP)
        if name not in self._thumbnail_files:
            self._thumbnail_files[name] = self.artefact.checked_path(name)
        with pq.ParquetFile(self._thumbnail_files[name], memory_map=True) as file:
            (found,) = file.read_row_group(group).slice(place, 1).to_pylist()
        self._check_thumbnails(name, found["content_hash"] == content_hash)
        return found["bytes"]

    @cached_property
    def _thumbnail_files(self) -> dict[str, str]:
        """Local files that were checked already."""
        return {}

    @cached_property
    def rows_per_part(self) -> list[int]:
        """How many rows each of the ``parts`` holds."""
        return [pq.read_metadata(path).num_rows for path in self._paths]

    @cached_property
    def _first_rows(self) -> NDArray[np.int64]:
        return np.cumsum([0, *self.rows_per_part])

    @cached_property
    def hashes(self) -> list[str]:
        """Content hash of each row."""
        return self._read(["content_hash"]).column("content_hash").to_pylist()

    @cached_property
    def matrix_ND(self) -> Float32:
        """Raw f_CLS, one row per content hash; read-only."""
        chunks = self._read(["f_cls"]).column("f_cls").chunks
        return _stack([float_rows(chunk) for chunk in chunks])

    @cached_property
    def tokens_NTE(self) -> NDArray[np.float16] | None:
        """Visual tokens of each row, read-only, or None if the store was made without them."""
        if self.token_shape is None:
            return None
        chunks = self._read(["tokens"]).column("tokens").chunks
        return _stack([_binary_rows(chunk, self.token_shape) for chunk in chunks])

    @cached_property
    def _rows(self) -> dict[str, int]:
        return {content_hash: row for row, content_hash in enumerate(self.hashes)}

    def __contains__(self, content_hash: str) -> bool:
        return content_hash in self._rows

    def row_of(self, content_hash: str) -> int:
        """Row of a picture.

        Raises:
            MissingInputError: if the store does not hold it.
        """
        row = self._rows.get(content_hash)
        if row is None:
            raise MissingInputError(
                f"Picture {content_hash[:16]} is not among the {len(self)} of {self.uri}. Embed the shards that hold it: "
                "python -m jobs.embed --set gallery=... --set model=... --set output=..."
            )
        return row

    def get(self, content_hash: str) -> Float32:
        """Raw f_CLS of one picture, (D,)."""
        return self.matrix_ND[self.row_of(content_hash)]

    @cached_property
    def item_table(self) -> ItemTable:
        """The gallery's items as columns."""
        return read_items(self.artefact.checked_path(ITEMS))

    def items(self) -> list[GalleryItem]:
        """The gallery's items, by item id."""
        return list(self.item_table)


def _binary_rows(chunk: pa.FixedSizeBinaryArray, shape: tuple[int, int]) -> NDArray[np.float16]:
    flat = np.frombuffer(chunk.buffers()[1], dtype="<f2")
    num_values = shape[0] * shape[1]
    return flat[chunk.offset * num_values : (chunk.offset + len(chunk)) * num_values].reshape(-1, *shape)


def _stack(arrays: list[Any]) -> Any:
    """One array over the chunks: a view when there is a single chunk, else one copy."""
    stacked = arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
    stacked.flags.writeable = False
    return stacked
