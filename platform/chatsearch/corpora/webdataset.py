"""WebDataset tars as img2dataset writes them: ``key.jpg``, ``key.txt``, ``key.json`` in runs of one key.

Tars are streamed, never extracted. A member's name is a key, never a path.
"""

from __future__ import annotations

import json
import re
import tarfile
from collections.abc import Iterator
from typing import IO, Any, cast

from chatsearch.config import digest
from chatsearch.corpora.attributes import attributes_of
from chatsearch.corpora.base import Partition, Rejected, Sample
from chatsearch.corpora.config import WebDatasetConfig
from chatsearch.corpora.file_ends import file_ends
from chatsearch.corpora.images import MAX_BYTES, check_image
from chatsearch.errors import BadImageError, MissingInputError
from chatsearch.storage import Folder, resolve
from chatsearch.types import Document, Kind, Segment, content_hash

IMAGE_SUFFIXES = frozenset({"jpg", "jpeg", "png", "webp"})
SUFFIXES = IMAGE_SUFFIXES | {"txt", "json"}
"""What is read; a member with another suffix is set aside by name."""
MAX_TEXT_BYTES = 1 << 20
MAX_MEMBERS = 1_000_000
"""Members of one tar."""
_FORMAT_VERSION = 1
_KEY = re.compile(r"[\w.-]+(/[\w.-]+)*")


class WebDatasetFolder:
    """Reader of a folder of tars, or of one tar."""

    name = "webdataset"

    def __init__(self, config: WebDatasetConfig) -> None:
        self.config = config
        path = resolve(config.path)
        if path.endswith(".tar"):
            parent, _, name = path.rpartition("/")
            self._folder, self._tars = Folder(parent), [name]
            if not self._folder.exists(name):
                raise MissingInputError(f"Tar {path} is missing. Check the path of the corpus.")
            return
        self._folder = Folder(path)
        self._tars = [name for name in self._folder.list() if name.endswith(".tar")]
        if not self._tars:
            raise MissingInputError(f"{self._folder} is missing or holds no .tar file. Check the path of the corpus.")

    def fingerprint(self) -> str:
        """Hash of configuration, names and sizes of the tars, and of the first and last bytes of each.

        Where they lie does not matter. Terabytes are not read for it: a tar in whose middle alone bytes were replaced by
        as many others goes unnoticed.
        """
        return digest(self.name, _FORMAT_VERSION, self.config.content(), file_ends(self._folder, self._tars))

    def partitions(self) -> list[Partition]:
        """One a tar."""
        return [Partition(index, {"tar": name}) for index, name in enumerate(self._tars)]

    def read(self, partition: Partition) -> Iterator[Sample | Rejected]:
        """The samples of one tar. A broken tar yields what comes before the damage, then a rejection."""
        name = partition.payload["tar"]
        # Keys are unique in a tar only: img2dataset puts the shard's number in front, other writers do not.
        shard = name.removesuffix(".tar")
        seen: set[str] = set()
        for key, members in self._groups(name):
            if isinstance(members, Rejected):
                yield members
                continue
            if key in seen:
                yield Rejected(f"{shard}/{key}", "duplicate key: its members must follow each other in the tar")
                continue
            seen.add(key)
            yield from self._samples(f"{shard}/{key}", members)

    def _groups(self, name: str) -> Iterator[tuple[str, dict[str, bytes] | Rejected]]:
        """Consecutive members of one key, by suffix."""
        key = ""
        members: dict[str, bytes] = {}
        try:
            with self._folder.opened(name) as stream, tarfile.open(fileobj=cast(IO[bytes], stream), mode="r|") as tar:
                for number, member in enumerate(tar):
                    if number >= MAX_MEMBERS:
                        raise tarfile.TarError(f"over {MAX_MEMBERS:,} members; split the tar")
                    found, suffix, data = _member(tar, member)
                    if isinstance(data, str):
                        yield found, Rejected(f"{name}:{member.name[:200]}", data)
                        continue
                    if data is None:
                        continue
                    if members and (found != key or suffix in members):  # a suffix again begins another sample
                        yield key, members
                        members = {}
                    key = found
                    members[suffix] = data
        except (tarfile.TarError, EOFError, OSError, ValueError) as error:
            yield "", Rejected(name, f"broken tar: {error}. Fetch it again; what comes before the damage was read.")
        else:
            if self._is_cut_short(name):
                yield (
                    "",
                    Rejected(
                        name, "broken tar: no end mark, it was cut short. Fetch it again; what is there was read."
                    ),
                )
        if members:
            yield key, members

    def _is_cut_short(self, name: str) -> bool:
        # A tar ends in blocks of zeros. Cut between two members it reads without an error, and only this tells.
        size = self._folder.size(name)
        return size < 1024 or any(self._folder.read_range(name, size - 1024, 1024))

    def _samples(self, key: str, members: dict[str, bytes]) -> Iterator[Sample | Rejected]:
        suffix = next((suffix for suffix in members if suffix in IMAGE_SUFFIXES), None)
        if suffix is None:
            yield Rejected(key, "caption without picture")
            return
        data = members[suffix]
        try:
            values = _values(members) if "txt" not in members or self.config.metadata else {}
            caption = _caption(members, values)
            check_image(data)
        except (BadImageError, ValueError) as error:
            yield Rejected(key, str(error))
            return
        name = content_hash(data)
        if not caption:
            yield Rejected(key, "empty text: no caption in .txt or .json")
            return
        for kind in self.config.emit:
            attributes = attributes_of(values, self.config.metadata)
            attributes["captions"] = json.dumps([caption], ensure_ascii=False)
            text = (Segment(caption),) if kind == Kind.CAPTION else ()
            document_id = key if kind == Kind.GALLERY else f"{key}#{kind.value}"
            document = Document(
                document_id, kind, (Segment(image=name), *text), self.name, self.config.split, attributes
            )
            yield Sample(document, {name: data})


def _member(tar: tarfile.TarFile, member: tarfile.TarInfo) -> tuple[str, str, bytes | str | None]:
    """Key, suffix and bytes of a member; a reason in words if it is refused, None if it is only a folder."""
    folder, _, base = member.name.removeprefix("./").rpartition("/")
    stem, _, suffix = base.partition(".")
    key, suffix = f"{folder}/{stem}" if folder else stem, suffix.lower()
    if member.isdir():
        return key, suffix, None
    if not member.isreg():
        return key, suffix, "not a plain file; links and devices are refused"
    if not _KEY.fullmatch(key) or ".." in key.split("/"):
        return key, suffix, "member name is no plain key"
    if suffix not in SUFFIXES:
        return key, suffix, f"suffix .{suffix[:20]} is not read; known are {', '.join(sorted(SUFFIXES))}"
    limit = MAX_BYTES if suffix in IMAGE_SUFFIXES else MAX_TEXT_BYTES
    if member.size > limit:
        return key, suffix, f"{member.size:,} bytes; the limit for .{suffix} is {limit:,}"
    stream = tar.extractfile(member)
    assert stream is not None
    return key, suffix, stream.read()


def _values(members: dict[str, bytes]) -> dict[str, Any]:
    """What ``.json`` holds; nothing where there is none.

    Raises:
        ValueError: it is no JSON.
    """
    try:
        values = json.loads(members.get("json", b"{}"))
    except (UnicodeDecodeError, RecursionError) as error:
        raise ValueError("caption is not UTF-8 text") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"bad JSON: {error}") from error
    return values if isinstance(values, dict) else {}


def _caption(members: dict[str, bytes], values: dict[str, Any]) -> str:
    """The text of ``.txt``, else ``caption`` of ``.json``.

    Raises:
        ValueError: text that is not UTF-8.
    """
    if "txt" not in members:
        caption = values.get("caption")
        return caption.strip() if isinstance(caption, str) else ""
    try:
        return members["txt"].decode().strip()
    except UnicodeDecodeError as error:
        raise ValueError("caption is not UTF-8 text") from error
