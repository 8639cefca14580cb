"""Captioned folders: pictures beside one ``captions.jsonl``, on disk or in a bucket.

A line is ``{"id", "file", "captions": [...], "split"?, "source"?}``; ``file`` is relative to the folder.
"""

from __future__ import annotations

import hashlib
import json
import posixpath
import random
from collections.abc import Iterator

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from chatsearch.config import digest
from chatsearch.corpora.attributes import attributes_of
from chatsearch.corpora.base import Partition, Rejected, Sample
from chatsearch.corpora.config import CaptionedFolderConfig
from chatsearch.corpora.lines import line_runs, split_lines
from chatsearch.corpora.picture_folder import PictureFolder
from chatsearch.corpora.templates import CAPTION_QUESTIONS, FIND_REQUESTS, as_phrase
from chatsearch.errors import BadImageError, MissingInputError
from chatsearch.storage import Folder
from chatsearch.types import Document, Kind, Role, Segment, content_hash

CAPTIONS_FILE = "captions.jsonl"
_FORMAT_VERSION = 1


class Record(BaseModel):
    """One line of ``captions.jsonl``. Other keys are allowed, and ignored unless the configuration names them as metadata."""

    model_config = ConfigDict(frozen=True, strict=True, extra="allow")

    id: str = Field(min_length=1)
    file: str = Field(min_length=1)
    captions: list[str] = Field(min_length=1)
    split: str = "train"
    source: str = ""


class _BadRecordError(Exception):
    """Why a record is set aside. Never leaves this module."""


class CaptionedFolder:
    """Reader of a captioned folder."""

    name = "captioned_folder"

    def __init__(self, config: CaptionedFolderConfig) -> None:
        self.config = config
        self._folder = Folder(config.path)
        self._pictures = PictureFolder(config.path)
        if not self._folder.exists(CAPTIONS_FILE):
            if not self._folder.exists():
                raise MissingInputError(f"Folder {self._folder} is missing or empty. Check the path of the corpus.")
            raise MissingInputError(
                f"{self._folder} holds no {CAPTIONS_FILE}. Write one: a JSON object a line with id, file and captions."
            )

    def fingerprint(self) -> str:
        """Hash of configuration, captions file and sizes of the pictures; where the folder lies does not matter.

        The pictures' bytes are not read for it: one replaced by another of the very same size goes unnoticed.
        """
        lines, sizes = self._folder.read_bytes(CAPTIONS_FILE), self._folder.sizes()
        named = [(file, sizes.get(posixpath.normpath(file))) for file in map(_file_of, split_lines(lines)) if file]
        return digest(self.name, _FORMAT_VERSION, self.config.content(), hashlib.sha256(lines).hexdigest(), named)

    def partitions(self) -> list[Partition]:
        """Runs of lines. One scan of the captions file also finds the ids that occur twice."""
        lines = split_lines(self._folder.read_bytes(CAPTIONS_FILE))
        return line_runs(lines, self.config.records_per_partition, _id_of)

    def read(self, partition: Partition) -> Iterator[Sample | Rejected]:
        """The samples of a run of lines: for each record one a kind in ``emit``, in that order."""
        payload = partition.payload
        repeated = set(payload["repeated"])
        lines = split_lines(self._folder.read_range(CAPTIONS_FILE, payload["start"], payload["length"]))
        for number, line in enumerate(lines, start=payload["first"]):
            if not line.strip():
                continue
            key = _id_of(line) or f"{CAPTIONS_FILE}:{number + 1}"
            try:
                record = _parse(line)
                if self.config.split not in (None, record.split):
                    continue
                if number in repeated:
                    raise _BadRecordError("duplicate id: an earlier line has it; give each record its own")
                texts = [text.strip() for text in record.captions if text.strip()]
                if not texts:
                    raise _BadRecordError("empty text: no caption holds a word")
                data = self._pictures.read(record.file)
            except (_BadRecordError, BadImageError) as error:
                yield Rejected(key, str(error))
                continue
            for kind in self.config.emit:
                yield Sample(self._document(kind, record, texts, content_hash(data)), {content_hash(data): data})
            for index, text in enumerate(record.captions):
                if not text.strip():
                    yield Rejected(
                        f"{key}#{index}", "empty text: this caption is left out, the record's others are kept"
                    )

    def _document(self, kind: Kind, record: Record, texts: list[str], image: str) -> Document:
        attributes = attributes_of(record.model_extra or {}, self.config.metadata) | {
            "captions": json.dumps(texts, ensure_ascii=False),
            "source": record.source,
            "target_id": record.id,
        }
        rng = random.Random(f"{self.config.seed}/{kind}/{record.id}")
        text = as_phrase(rng.choice(texts))
        if kind == Kind.T:
            attributes["sub_task"] = "t"
            attributes["pipeline"] = "template"
            segments: tuple[Segment, ...] = (
                Segment(rng.choice(FIND_REQUESTS).format(text), role=Role.USER, loss=False),
                Segment(image=image, role=Role.ASSISTANT),
            )
        elif kind == Kind.QUESTION:
            segments = (
                Segment(image=image, role=Role.USER, loss=False),
                Segment(rng.choice(CAPTION_QUESTIONS), role=Role.USER, loss=False),
                Segment(text, role=Role.ASSISTANT),
            )
        elif kind == Kind.GALLERY:
            segments = (Segment(image=image),)
        else:
            segments = (Segment(image=image), *(Segment(caption) for caption in texts))
        document_id = record.id if kind == Kind.GALLERY else f"{record.id}#{kind.value}"
        return Document(document_id, kind, segments, self.name, record.split, attributes)


def _field_of(line: bytes, name: str) -> str | None:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    found = value.get(name) if isinstance(value, dict) else None
    return found if isinstance(found, str) and found else None


def _id_of(line: bytes) -> str | None:
    return _field_of(line, "id")


def _file_of(line: bytes) -> str | None:
    return _field_of(line, "file")


def _parse(line: bytes) -> Record:
    try:
        return Record.model_validate(json.loads(line))
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(str(part) for part in problem["loc"]) or "the line"
        raise _BadRecordError(f"bad record: {where}: {problem['msg']}") from error
    except (ValueError, RecursionError) as error:
        raise _BadRecordError(f"bad JSON line: {error}") from error
