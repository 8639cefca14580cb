"""Lines of JSON shards, plain or zipped, as a stream within limits. Nothing is extracted; a member's name is not used."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections.abc import Iterator
from typing import IO, cast

from chatsearch.errors import StorageError
from chatsearch.storage import Folder

MAX_LINE_BYTES = 16 << 20
MAX_LINES = 1_000_000
"""Lines of one shard."""
MAX_UNPACKED_BYTES = 4 << 30
"""Of a zipped shard, as its directory declares it; more than that is never unpacked."""
_BUFFER_BYTES = 1 << 20
"""Read at a time: on S3 every read is a request."""
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


class BrokenShardError(Exception):
    """What is wrong with a shard. Never leaves the readers."""


def shard_lines(folder: Folder, name: str) -> Iterator[bytes | None]:
    """The lines of a ``.jsonl`` or ``.jsonl.zip`` file; None in place of one over ``MAX_LINE_BYTES``.

    Raises:
        BrokenShardError: no archive, a damaged one, not exactly one ``.jsonl`` in it, or more than the limits; after the
            lines before the damage.
        StorageError: the store failed.
    """
    try:
        if name.endswith(".zip"):
            with folder.seekable(name) as file:
                yield from _zipped_lines(cast(io.RawIOBase, file))
        else:
            with folder.opened(name) as file:
                yield from _lines(io.BufferedReader(cast(io.RawIOBase, file), _BUFFER_BYTES))
    except (zipfile.BadZipFile, zlib.error, struct.error, EOFError, RuntimeError, ValueError) as error:
        raise BrokenShardError(f"no sound zip archive ({' '.join(str(error).split()) or 'cut short'})") from error
    except OSError as error:
        raise StorageError(
            f"Cannot read {folder.path(name)}: {error}. Check that the store is up, then run the same command again."
        ) from error


def _lines(stream: io.BufferedReader) -> Iterator[bytes | None]:
    for _ in range(MAX_LINES):
        line = stream.readline(MAX_LINE_BYTES + 1)
        if not line:
            return
        if len(line) <= MAX_LINE_BYTES:
            yield line
            continue
        while line and not line.endswith(b"\n"):
            line = stream.readline(MAX_LINE_BYTES)
        yield None
    if stream.read(1):
        raise BrokenShardError(f"over {MAX_LINES:,} lines; split the shard")


def _zipped_lines(file: io.RawIOBase) -> Iterator[bytes | None]:
    with zipfile.ZipFile(cast(IO[bytes], _BoundedReader(file, _BUFFER_BYTES))) as archive:
        # Not is_dir(), which fails on the empty name that a damaged archive may hold.
        members = [member for member in archive.infolist() if not member.filename.endswith("/")]
        if len(members) != 1 or not members[0].filename.endswith(".jsonl"):
            raise BrokenShardError(f"{len(members)} files in the archive; a shard holds one, a .jsonl")
        member = members[0]
        if member.flag_bits & 0x1 or member.compress_type not in _METHODS:
            raise BrokenShardError("encrypted or packed in a way that is not read; pack it with deflate")
        if member.file_size > MAX_UNPACKED_BYTES:
            raise BrokenShardError(f"{member.file_size:,} bytes unpacked; the limit is {MAX_UNPACKED_BYTES:,}")
        with archive.open(member) as unpacked:
            yield from _lines(io.BufferedReader(cast(io.RawIOBase, unpacked), _BUFFER_BYTES))


class _BoundedReader(io.BufferedReader):
    """Refuses to read much at once: the directory of a hostile archive would be held in memory whole."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > _BUFFER_BYTES:
            raise zipfile.BadZipFile(f"its directory has {size:,} bytes; the limit is {_BUFFER_BYTES:,}")
        return super().read(_BUFFER_BYTES if size is None or size < 0 else size)
