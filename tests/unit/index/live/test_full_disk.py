"""A disk that takes no more in the middle of a compaction: a named error, nothing lost, and a later compaction goes through."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from chatsearch.errors import StorageError
from chatsearch.index.live import compact as compact_module
from chatsearch.index.live.reader import LiveGallery
from chatsearch.index.live.writer import GalleryWriter

from tests.unit.index.live.galleries import expected, features, gallery_over_index, item
from tests.unit.index.synthetic import RETRIEVAL_DIM


@contextmanager
def no_file_larger_than(num_bytes: int) -> Iterator[None]:
    """The kernel refuses to let files of this process grow beyond a size."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("rows_per_part", [1 << 15, 32], ids=["features", "index"])
def test_a_compaction_that_runs_out_of_space(
    tmp_path: Path, rows_per_part: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compact_module, "ROWS_PER_PART", rows_per_part)
    uri, live = gallery_over_index(str(tmp_path), 3000, num_shards=1)
    queries_BD = np.random.default_rng(0).normal(size=(2, RETRIEVAL_DIM))
    with GalleryWriter.open(uri, "w") as writer:
        writer.upsert([item("new", 5)], features([5]))
        live["new"] = 5
        with no_file_larger_than(90_000), pytest.raises(StorageError, match=r"Cannot write .*bases/"):
            writer.compact()
        assert LiveGallery.open(uri).search(queries_BD, 20) == expected(live, queries_BD, 20)
        with no_file_larger_than(10), pytest.raises(StorageError, match=r"Cannot create .*/log/"):
            writer.delete(["new"])
        writer.delete(["item-0000"])
        del live["item-0000"]
        writer.compact()
    assert LiveGallery.open(uri).search(queries_BD, 20) == expected(live, queries_BD, 20)
    assert list(Path(uri).rglob(".tmp-*")) == []
