"""The feature store: raw f_CLS of every picture of a gallery, one row per content hash, and the gallery's items.

Shape suffixes: N pictures, D width of f_CLS, T visual tokens of a picture, E their width.

    features/part-00000.parquet   content_hash, f_cls fixed_size_list<float32>[D], tokens fixed_size_binary[T*E*2] (optional)
    rejected/part-00000.jsonl     key and reason of each picture of that part that was set aside; only if there are any
    items/part-00000.parquet      item_id, content_hash, metadata (JSON)

Tokens are float16 in row-major (T, E) order, as bytes: Parquet then hands them over without decoding each number.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
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


def part_name(part: int) -> str:
    """File of one micro-shard of features."""
    return f"features/part-{part:05d}.parquet"


def rejected_name(part: int) -> str:
    """File of what one micro-shard set aside."""
    return f"rejected/part-{part:05d}.jsonl"


def write_part(
    path: str, hashes: Sequence[str], cls_ND: Float32, tokens_NTE: NDArray[np.float16] | None = None
) -> None:
    """Write one micro-shard to a local file. The same features give the same bytes."""
    num_rows, dimension = cls_ND.shape
    columns = {
        "content_hash": pa.array(hashes, pa.string()),
        "f_cls": pa.FixedSizeListArray.from_arrays(pa.array(cls_ND.ravel(), pa.float32()), dimension),
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


def read_shapes(path: str) -> dict[str, Any]:
    """``dimension`` and ``token_shape`` of a local part file, as the manifest's facts hold them."""
    return json.loads(pq.read_schema(path).metadata[_SHAPES.encode()])


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

    @cached_property
    def _parts(self) -> list[str]:
        """Local files of the rows, each checked against the manifest before anything of it is read."""
        names = sorted(name for name in self.artefact.manifest.files if name.startswith("features/"))
        return [self.artefact.checked_path(name) for name in names]

    def _read(self, columns: list[str]) -> pa.Table:
        try:
            tables = [pq.read_table(path, columns=columns, memory_map=True) for path in self._parts]
        except (pa.ArrowException, OSError) as error:
            raise CorruptArtefactError(
                f"Cannot read the features at {self.uri}: {error}. Make the store again with --set overwrite=true."
            ) from error
        return pa.concat_tables(tables)

    @cached_property
    def hashes(self) -> list[str]:
        """Content hash of each row."""
        return self._read(["content_hash"]).column("content_hash").to_pylist()

    @cached_property
    def matrix_ND(self) -> Float32:
        """Raw f_CLS, one row per content hash; read-only."""
        chunks = self._read(["f_cls"]).column("f_cls").chunks
        return _stack([chunk.flatten().to_numpy().reshape(-1, self.dimension) for chunk in chunks])

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
