from __future__ import annotations

import io
import struct
import zipfile
from pathlib import Path

import pytest
from chatsearch.corpora import json_shards
from chatsearch.corpora.json_shards import BrokenShardError, shard_lines
from chatsearch.storage import Folder
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

LINES = [b'{"n": %d, "text": "%s"}\n' % (n, b"words " * n) for n in range(50)]


def zipped(*members: tuple[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return buffer.getvalue()


def read(folder: Path, data: bytes, name: str = "s.jsonl.zip") -> list[bytes | None]:
    (folder / name).write_bytes(data)
    return list(shard_lines(Folder(str(folder)), name))


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_zipped_and_plain_give_the_same_lines(tmp_path: Path, method: int) -> None:
    whole = b"".join(LINES)
    assert read(tmp_path, whole, "s.jsonl") == LINES
    assert read(tmp_path, zipped(("s.jsonl", whole), method=method)) == LINES
    assert read(tmp_path, whole.rstrip(b"\n"), "s.jsonl")[-1] == LINES[-1].rstrip(b"\n")


def test_nothing_is_written_whatever_the_member_is_called(tmp_path: Path) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    assert read(inner, zipped(("../../evil.jsonl", LINES[0]))) == [LINES[0]]
    assert [p.relative_to(tmp_path) for p in tmp_path.rglob("*")] == [Path("inner"), Path("inner/s.jsonl.zip")]


BAD = {
    "no archive": (b"this is no archive" * 100, "no sound zip archive"),
    "empty": (b"", "no sound zip archive"),
    "no member": (zipped(), "no sound zip archive"),
    "two members": (zipped(("a.jsonl", b"{}"), ("b.jsonl", b"{}")), "2 files"),
    "other member": (zipped(("a.pkl", b"{}")), "a shard holds one, a .jsonl"),
    "other packing": (zipped(("a.jsonl", b"{}"), method=zipfile.ZIP_LZMA), "packed in a way"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_archive_is_named(tmp_path: Path, case: str) -> None:
    data, reason = BAD[case]
    with pytest.raises(BrokenShardError, match=reason):
        read(tmp_path, data)


def test_encrypted_archive_is_refused(tmp_path: Path) -> None:
    data = bytearray(zipped(("s.jsonl", LINES[0])))
    data[data.rindex(b"PK\x01\x02") + 8] |= 1
    with pytest.raises(BrokenShardError, match="encrypted"):
        read(tmp_path, bytes(data))


def test_bomb_is_refused_before_it_is_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_shards, "MAX_UNPACKED_BYTES", 10 << 20)
    bomb = zipped(("s.jsonl", bytes(11 << 20)))
    assert len(bomb) < 20_000
    with pytest.raises(BrokenShardError, match=r"11,534,336 bytes unpacked; the limit is 10,485,760"):
        read(tmp_path, bomb)


def test_bomb_that_lies_about_its_size_gives_no_more_than_it_declares(tmp_path: Path) -> None:
    data = bytearray(zipped(("s.jsonl", bytes(11 << 20))))
    place = data.rindex(b"PK\x01\x02")
    struct.pack_into("<L", data, place + 24, 1000)
    # Cut off there the checksum does not fit: the archive is broken.
    with pytest.raises(BrokenShardError, match="Bad CRC"):
        read(tmp_path, bytes(data))


def test_directory_of_many_members_is_not_read(tmp_path: Path) -> None:
    many = zipped(*((f"{n:0200d}.jsonl", b"") for n in range(5000)))
    with pytest.raises(BrokenShardError, match=r"its directory has .* bytes; the limit is 1,048,576"):
        read(tmp_path, many)


@pytest.mark.parametrize("name", ["s.jsonl", "s.jsonl.zip"])
def test_overlong_line_costs_only_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(json_shards, "MAX_LINE_BYTES", 100)
    data = b"first\n" + b"x" * 1000 + b"\n" + b"y" * 99 + b"\n" + b"z" * 100 + b"\nlast\n" + b"w" * 500
    found = read(tmp_path, data if name == "s.jsonl" else zipped(("s.jsonl", data)), name)
    assert found == [b"first\n", None, b"y" * 99 + b"\n", None, b"last\n", None]


def test_number_of_lines_is_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_shards, "MAX_LINES", 3)
    assert len(read(tmp_path, b"\n" * 3, "s.jsonl")) == 3
    with pytest.raises(BrokenShardError, match="over 3 lines"):
        read(tmp_path, b"\n" * 4, "s.jsonl")


ARCHIVE = zipped(("s.jsonl", b"".join(LINES)))


@example(place=ARCHIVE.rindex(b"s.jsonl"), value=0, cut=False)  # a member without a name
@given(place=st.integers(0, len(ARCHIVE) - 1), value=st.integers(0, 255), cut=st.booleans())
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_damage_is_a_broken_shard_or_none_at_all(tmp_path: Path, place: int, value: int, cut: bool) -> None:
    data = ARCHIVE[:place] if cut else ARCHIVE[:place] + bytes([value]) + ARCHIVE[place + 1 :]
    (tmp_path / "s.jsonl.zip").write_bytes(data)
    broken, found = "", []
    try:
        found.extend(shard_lines(Folder(str(tmp_path)), "s.jsonl.zip"))
    except BrokenShardError as error:
        broken = str(error)
    assert broken or found == LINES
