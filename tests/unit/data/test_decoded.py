from __future__ import annotations

from pathlib import Path

import psutil
import pyarrow as pa
import pytest
from chatsearch.data.decoded import decoded
from chatsearch.errors import StorageError

TABLE = pa.table({"name": ["a", "b", "ü"], "size": [1, 2, 3]})


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CHATSEARCH_CACHE", str(tmp_path))
    return tmp_path / "decoded"


def never() -> pa.Table:
    raise AssertionError("it is there")


def test_a_table_is_made_once_and_mapped_from_then_on(cache: Path) -> None:
    assert decoded("some", lambda: TABLE).equals(TABLE)
    again = decoded("some", never)
    assert again.equals(TABLE)
    assert any(m.path == str(cache / "some.arrow") for m in psutil.Process().memory_maps()), "not copied"
    assert decoded("other", lambda: TABLE.slice(1)).equals(TABLE.slice(1))


def test_an_empty_table_has_its_columns() -> None:
    for _ in range(2):
        assert decoded("empty", lambda: TABLE.slice(0, 0)).schema == TABLE.schema


@pytest.mark.parametrize("damage", ["flip", "cut", "empty"])
def test_a_damaged_file_is_made_again(cache: Path, damage: str) -> None:
    decoded("some", lambda: TABLE)
    file = cache / "some.arrow"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.unlink()
    file.write_bytes({"flip": bytes(data), "cut": bytes(data[:-40]), "empty": b""}[damage])
    assert decoded("some", lambda: TABLE).equals(TABLE)
    assert decoded("some", never).equals(TABLE)


def test_a_cache_that_cannot_be_written_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("CHATSEARCH_CACHE", str(tmp_path / "file"))
    with pytest.raises(StorageError, match="file"):
        decoded("some", lambda: TABLE)
