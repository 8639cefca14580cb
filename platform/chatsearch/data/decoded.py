"""Arrow tables that are decoded once a machine: files in the local cache, mapped by every process that reads them.

What a training worker and its data tasks hold of a corpus does not grow with it that way: the pages are the system's, shared
among processes, and given back when memory is short.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import pyarrow as pa

from chatsearch.storage import Folder, cache_root

_DIGEST_BYTES = 32


def decoded(key: str, make: Callable[[], pa.Table]) -> pa.Table:
    """The table of a key, mapped; made first where this machine does not have it, or no longer as it was written.

    Args:
        key: says all that decides the content; letters, digits and dashes.
        make: gives the table.

    Raises:
        StorageError: the cache cannot be written.
    """
    folder = Folder(cache_root()).child("decoded")
    name = f"{key}.arrow"
    table = _mapped(folder.path(name))
    if table is not None:
        return table
    made = make()
    with folder.writing(name) as path, open(path, "w+b") as file:
        with pa.ipc.new_stream(file, made.schema) as sink:
            for batch in made.combine_chunks().to_batches():
                sink.write_batch(batch)
        file.seek(0)
        digest = hashlib.file_digest(file, "sha256").digest()
        file.seek(0, 2)
        file.write(digest)
    return _mapped(folder.path(name)) or made


def _mapped(path: str) -> pa.Table | None:
    """None where there is no whole file."""
    try:
        data = pa.memory_map(path).read_buffer()
    except FileNotFoundError:
        return None
    body, digest = data[:-_DIGEST_BYTES], data[-_DIGEST_BYTES:]
    if hashlib.sha256(body).digest() != digest.to_pybytes():
        return None
    return pa.ipc.open_stream(body).read_all()
