from __future__ import annotations

import os
from pathlib import Path

import pytest
from chatsearch.corpora import picture_folder
from chatsearch.corpora.picture_folder import PictureFolder
from chatsearch.errors import BadImageError
from chatsearch.storage import Folder

from tests.unit.corpora.pictures import picture

REFUSED = {
    "../secret.jpg": "leaves the folder",
    "sub/../../secret.jpg": "leaves the folder",
    "/etc/passwd": "leaves the folder",
    "..\\secret.jpg": "leaves the folder",
    "a\0.jpg": "leaves the folder",
    "none.jpg": "no picture at 'none.jpg'",
    "sub": "no picture at 'sub'",
    ".": "no picture at",
    "x" * 5000: "no picture at",
    "a\nb.jpg": "no picture at",
    "a?b#c%2e%2e/ü.jpg": "no picture at",
    "a.jpg/b.jpg": "no picture at",
    " ": "no picture at",
    "pipe.jpg": "no picture at",
    "link.jpg": "through a link",
    "empty.jpg": "bad picture 'empty.jpg'",
    "text.jpg": "bad picture 'text.jpg'",
    "cut.jpg": "bad picture 'cut.jpg'",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    (folder / "sub").mkdir(parents=True)
    (folder / "a.jpg").write_bytes(picture())
    (folder / "sub" / "b.jpg").write_bytes(picture("blue"))
    (folder / "empty.jpg").touch()
    (folder / "text.jpg").write_bytes(b"hello")
    (folder / "cut.jpg").write_bytes(picture(size=(200, 200))[:700])
    (tmp_path / "secret.jpg").write_bytes(picture())
    (folder / "link.jpg").symlink_to(tmp_path / "secret.jpg")
    os.mkfifo(folder / "pipe.jpg")
    return folder


def test_pictures_by_relative_path(folder: Path) -> None:
    pictures = PictureFolder(str(folder))
    assert pictures.read("a.jpg") == pictures.read("./sub/../a.jpg") == picture()
    assert pictures.read("sub/b.jpg") == picture("blue")


@pytest.mark.parametrize("file", REFUSED, ids=range(len(REFUSED)))
def test_what_is_no_picture_in_the_folder_is_refused(folder: Path, file: str) -> None:
    with pytest.raises(BadImageError, match=REFUSED[file]):
        PictureFolder(str(folder)).read(file)


def test_a_file_over_the_limit_is_not_read_whole(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (folder / "huge.jpg").open("wb") as file:
        file.truncate(1 << 40)
    asked: list[int] = []
    read_range = Folder.read_range

    def counted(self: Folder, name: str, start: int, length: int) -> bytes:
        asked.append(length)
        return read_range(self, name, start, length)

    monkeypatch.setattr(Folder, "read_range", counted)
    with pytest.raises(BadImageError, match="the limit is"):
        PictureFolder(str(folder)).read("huge.jpg")
    assert asked == [picture_folder.MAX_BYTES + 1]


def test_place_is_relative_to_the_corpus_or_absolute(folder: Path, tmp_path: Path) -> None:
    base = str(tmp_path)
    assert str(PictureFolder.beside(base, "images")) == str(PictureFolder.beside("/elsewhere", str(folder)))
    assert str(PictureFolder.beside(base, ".")) == base
    assert str(PictureFolder.beside(base, "s3://bucket/pictures/")) == "s3://bucket/pictures"
    assert str(PictureFolder.beside("s3://bucket/shards", "images")) == "s3://bucket/shards/images"


def test_listing_follows_names_and_sizes(folder: Path) -> None:
    pictures = PictureFolder(str(folder))
    before = pictures.listing()
    assert pictures.listing() == before
    (folder / "a.jpg").rename(folder / "c.jpg")
    assert pictures.listing() != before
    assert PictureFolder(str(folder / "none")).listing()[0] == 0


@pytest.mark.s3
def test_bucket_refuses_what_the_folder_refuses(folder: Path, s3: str) -> None:
    (folder / "pipe.jpg").unlink()
    (folder / "link.jpg").unlink()
    bucket = Folder(s3)
    for name in Folder(str(folder)).list():
        bucket.upload(folder / name, name)
    pictures = PictureFolder(s3)
    assert pictures.read("sub/b.jpg") == picture("blue")
    for file, reason in REFUSED.items():
        if file not in ("pipe.jpg", "link.jpg"):
            with pytest.raises(BadImageError, match=reason):
                pictures.read(file)
