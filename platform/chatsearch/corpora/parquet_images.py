"""Pictures in Parquet files: a column of encoded bytes, as binary or as the ``{bytes, path}`` of Hugging Face datasets.

Row groups are streamed a few rows at a time, and only the columns that are asked for. Paths and URLs are never followed.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from chatsearch.config import digest
from chatsearch.corpora.attributes import attributes_of
from chatsearch.corpora.base import Partition, Rejected, Sample
from chatsearch.corpora.config import ParquetImagesConfig
from chatsearch.corpora.file_ends import file_ends
from chatsearch.corpora.images import check_image
from chatsearch.errors import BadImageError, MissingInputError, StorageError
from chatsearch.storage import Folder, is_remote, resolve
from chatsearch.types import Document, Kind, Segment, content_hash

MAX_GROUP_BYTES = 4 << 30
"""Of the columns that are read of one row group, unpacked, as the file declares them; a larger group is set aside."""
_FORMAT_VERSION = 1
_ROWS_AT_A_TIME = 8
_BUFFER_BYTES = 1 << 20


class _BadRowError(Exception):
    """Why a row is set aside. Never leaves this module."""


class ParquetImages:
    """Reader of a folder of Parquet files, or of one."""

    name = "parquet_images"

    def __init__(self, config: ParquetImagesConfig) -> None:
        self.config = config
        path = resolve(config.path)
        if path.endswith(".parquet"):
            parent, _, name = path.rpartition("/")
            self._folder, self._files = Folder(parent), [name]
            if not self._folder.exists(name):
                raise MissingInputError(f"{path} is missing. Check the path of the corpus.")
        else:
            self._folder = Folder(path)
            self._files = [name for name in self._folder.list() if name.endswith(".parquet")]
        if not self._files:
            raise MissingInputError(f"{path} is missing or holds no .parquet file. Check the path of the corpus.")
        self._columns = [c for c in (config.image, config.id, config.caption, *config.metadata) if c]

    def fingerprint(self) -> str:
        """Hash of configuration, names and sizes of the files, and of the first and last bytes of each: their footers.

        A file in whose middle alone bytes were replaced by as many others goes unnoticed.
        """
        return digest(self.name, _FORMAT_VERSION, self.config.content(), file_ends(self._folder, self._files))

    def partitions(self) -> list[Partition]:
        """Runs of row groups. Where there is a column of ids, one scan of it also finds those that occur twice.

        Raises:
            MissingInputError: a column that is asked for is missing or holds no pictures.
        """
        payloads: list[dict[str, Any]] = []
        seen: set[bytes] = set()
        for name in self._files:
            runs = [{"file": name, "first": 0, "groups": [], "repeated": []}]
            try:
                with self._opened(name) as file:
                    self._check_columns(name, file.schema_arrow)
                    runs = self._runs(name, file)
                    if self.config.id:
                        self._find_repeated(file, runs, seen)
            except (pa.ArrowException, OSError, ValueError) as error:
                self._check_store(error)  # what is left is a broken file, which is set aside where it is read
            payloads += runs
        return [Partition(index, payload) for index, payload in enumerate(payloads)]

    def read(self, partition: Partition) -> Iterator[Sample | Rejected]:
        """The samples of a run of row groups. A broken file yields what comes before the damage, then a rejection."""
        payload = partition.payload
        name, repeated, row = payload["file"], set(payload["repeated"]), payload["first"]
        try:
            with self._opened(name) as file:
                for group in payload["groups"] or range(file.num_row_groups):
                    end = row + file.metadata.row_group(group).num_rows
                    if self._group_bytes(file.metadata.row_group(group)) > MAX_GROUP_BYTES:
                        yield Rejected(
                            f"{name}:group {group}", f"over {MAX_GROUP_BYTES:,} bytes; write smaller row groups"
                        )
                        row = end
                        continue
                    batches = file.iter_batches(_ROWS_AT_A_TIME, row_groups=[group], columns=self._columns)
                    for values in itertools.chain.from_iterable(batch.to_pylist() for batch in batches):
                        yield from self._samples(name, row, values, is_repeated=row in repeated)
                        row += 1
        except (pa.ArrowException, OSError, ValueError) as error:
            self._check_store(error)
            detail = " ".join(str(error).split())[:200]
            yield Rejected(
                name, f"broken Parquet file: {detail}. Write it again; what comes before the damage was read."
            )

    @contextlib.contextmanager
    def _opened(self, name: str) -> Iterator[pq.ParquetFile]:
        with self._folder.seekable(name) as file:
            yield pq.ParquetFile(file, buffer_size=_BUFFER_BYTES)

    def _check_store(self, error: Exception) -> None:
        if isinstance(error, OSError) and is_remote(self._folder.uri):
            raise StorageError(
                f"Cannot read {self._folder}: {' '.join(str(error).split())[:200]}. Check the credentials and that the store is up, then "
                "run the same command again."
            ) from error

    def _check_columns(self, name: str, schema: pa.Schema) -> None:
        where = self._folder.path(name)
        for column in self._columns:
            if schema.names.count(column) != 1:
                raise MissingInputError(
                    f"{where} has the columns {schema.names[:12]}; {column!r} is asked for, once. Name its columns with --set "
                    "corpus.image=, corpus.id=, corpus.caption= and corpus.metadata=; an empty id or caption asks for none."
                )
        kind = schema.field(self.config.image).type
        kind = kind.field("bytes").type if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0 else kind
        if not any(
            is_kind(kind) for is_kind in (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view)
        ):
            raise MissingInputError(
                f"Column {self.config.image!r} of {where} is of type {kind}; encoded pictures are needed, as binary or as a struct with "
                "bytes. Paths and URLs are not followed: write the pictures themselves."
            )

    def _runs(self, name: str, file: pq.ParquetFile) -> list[dict[str, Any]]:
        runs: list[dict[str, Any]] = []
        first, room = 0, 0
        for group in range(file.num_row_groups):
            if room <= 0:
                runs.append({"file": name, "first": first, "groups": [], "repeated": []})
                room = self.config.records_per_partition
            runs[-1]["groups"].append(group)
            first += file.metadata.row_group(group).num_rows
            room -= file.metadata.row_group(group).num_rows
        return runs

    def _find_repeated(self, file: pq.ParquetFile, runs: Sequence[dict[str, Any]], seen: set[bytes]) -> None:
        for run in runs:
            batches = file.iter_batches(4096, row_groups=run["groups"], columns=[self.config.id])
            ids = itertools.chain.from_iterable(batch.column(0).to_pylist() for batch in batches)
            for row, value in enumerate(ids, start=run["first"]):
                if value is not None:
                    key = hashlib.blake2b(str(value).encode(), digest_size=12).digest()
                    if key in seen:
                        run["repeated"].append(row)
                    seen.add(key)

    def _group_bytes(self, group: pq.RowGroupMetaData) -> int:
        columns = map(group.column, range(group.num_columns))
        return sum(c.total_uncompressed_size for c in columns if c.path_in_schema.split(".")[0] in self._columns)

    def _samples(
        self, name: str, row: int, values: dict[str, Any], *, is_repeated: bool
    ) -> Iterator[Sample | Rejected]:
        key = f"{name.removesuffix('.parquet')}/{row}"
        try:
            if self.config.id:
                if values[self.config.id] is None:
                    raise _BadRowError(f"no id in column {self.config.id!r}")
                key = str(values[self.config.id])
                if is_repeated:
                    raise _BadRowError("duplicate id: an earlier row has it; give each its own")
            data = values[self.config.image]
            data = data.get("bytes") if isinstance(data, dict) else data
            if data is None:
                raise _BadRowError(f"no picture in column {self.config.image!r}")
            captions = self._captions(values)
            check_image(data)
        except (_BadRowError, BadImageError) as error:
            yield Rejected(key, str(error))
            return
        image = content_hash(data)
        attributes = attributes_of(values, self.config.metadata)
        if captions:
            attributes["captions"] = json.dumps(captions, ensure_ascii=False)
        for kind in self.config.emit:
            texts = tuple(map(Segment, captions)) if kind == Kind.CAPTION else ()
            document_id = key if kind == Kind.GALLERY else f"{key}#{kind.value}"
            segments = (Segment(image=image), *texts)
            yield Sample(Document(document_id, kind, segments, self.name, self.config.split, attributes), {image: data})

    def _captions(self, values: dict[str, Any]) -> list[str]:
        """The captions of a row: its column holds one or a list."""
        if not self.config.caption:
            return []
        value = values[self.config.caption]
        texts = [str(text).strip() for text in (value if isinstance(value, list) else [value]) if text is not None]
        captions = [text for text in texts if text]
        if not captions:
            raise _BadRowError(f"empty text: column {self.config.caption!r} holds no word")
        return captions
