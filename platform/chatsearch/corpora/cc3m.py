"""CC3M with its pictures at hand: a TSV with the header ``caption`` and ``image``, and a folder that holds the pictures.

The published TSV has captions and URLs only. It is downloaded with img2dataset, whose tars the ``webdataset`` reader reads.
"""

from __future__ import annotations

import hashlib
import json
import posixpath
from collections.abc import Iterator

from chatsearch.config import digest
from chatsearch.corpora.base import Partition, Rejected, Sample
from chatsearch.corpora.config import Cc3mConfig
from chatsearch.corpora.lines import line_runs, split_lines
from chatsearch.corpora.picture_folder import PictureFolder
from chatsearch.errors import BadImageError, MissingInputError
from chatsearch.storage import Folder, resolve
from chatsearch.types import Document, Kind, Segment, content_hash

_FORMAT_VERSION = 1
_HEADER_BYTES = 64 << 10
"""The header is looked for in so much of the file."""


class _BadRowError(Exception):
    """Why a row is set aside. Never leaves this module."""


class Cc3mTsv:
    """Reader of one TSV and its pictures."""

    name = "cc3m"

    def __init__(self, config: Cc3mConfig) -> None:
        self.config = config
        path = resolve(config.path)
        parent, _, self._tsv = path.rpartition("/")
        self._folder = Folder(parent)
        if not self._folder.exists(self._tsv):
            raise MissingInputError(f"{path} is no file. Name the TSV itself: --set corpus.path=FOLDER/NAME.tsv.")
        self._pictures = PictureFolder.beside(parent, config.images)
        self._columns = _columns(path, self._folder.read_range(self._tsv, 0, _HEADER_BYTES))

    def fingerprint(self) -> str:
        """Hash of configuration, TSV and sizes of the pictures; where they lie does not matter.

        The pictures' bytes are not read for it: one replaced by another of the very same size goes unnoticed.
        """
        data, sizes = self._folder.read_bytes(self._tsv), self._pictures.sizes()
        named = [
            (image, sizes.get(posixpath.normpath(image))) for image in map(self._image_of, split_lines(data)) if image
        ]
        return digest(self.name, _FORMAT_VERSION, self.config.content(), hashlib.sha256(data).hexdigest(), named)

    def partitions(self) -> list[Partition]:
        """Runs of rows. The scan also finds the pictures that are named twice."""
        lines = split_lines(self._folder.read_bytes(self._tsv))
        return line_runs(lines, self.config.records_per_partition, self._image_of, num_header_lines=1)

    def read(self, partition: Partition) -> Iterator[Sample | Rejected]:
        """The samples of a run of rows: for each one a kind in ``emit``, in that order."""
        payload = partition.payload
        repeated = set(payload["repeated"])
        lines = split_lines(self._folder.read_range(self._tsv, payload["start"], payload["length"]))
        for number, line in enumerate(lines, start=payload["first"]):
            if not line.strip():
                continue
            key = self._image_of(line) or f"{self._tsv}:{number + 1}"
            try:
                caption, image = self._parse(line)
                if number in repeated:
                    raise _BadRowError("duplicate picture: an earlier row names it; keep one caption of it")
                data = self._pictures.read(image)
            except (_BadRowError, BadImageError) as error:
                yield Rejected(key, str(error))
                continue
            for kind in self.config.emit:
                yield Sample(self._document(kind, image, caption, content_hash(data)), {content_hash(data): data})

    def _parse(self, line: bytes) -> tuple[str, str]:
        """Caption and path of the picture."""
        try:
            cells = line.decode().rstrip("\r\n").split("\t")
        except UnicodeDecodeError as error:
            raise _BadRowError("row is not UTF-8 text") from error
        if len(cells) != len(self._columns):
            raise _BadRowError(f"{len(cells)} columns; the header has {len(self._columns)}")
        row = dict(zip(self._columns, (cell.strip() for cell in cells), strict=True))
        if not row["caption"]:
            raise _BadRowError("empty text: the caption holds no word")
        if not row["image"]:
            raise _BadRowError("no picture is named")
        return row["caption"], row["image"]

    def _image_of(self, line: bytes) -> str | None:
        cells = line.decode(errors="replace").rstrip("\r\n").split("\t")
        found = cells[self._columns.index("image")].strip() if len(cells) == len(self._columns) else ""
        return found or None

    def _document(self, kind: Kind, image: str, caption: str, name: str) -> Document:
        attributes = {"captions": json.dumps([caption], ensure_ascii=False)}
        text = (Segment(caption),) if kind == Kind.CAPTION else ()
        document_id = image if kind == Kind.GALLERY else f"{image}#{kind.value}"
        return Document(document_id, kind, (Segment(image=name), *text), self.name, self.config.split, attributes)


def _columns(path: str, start: bytes) -> list[str]:
    """Names of the columns of a TSV with pictures.

    Raises:
        MissingInputError: it is the published list of URLs, or has other columns.
    """
    header = next(iter(split_lines(start)), b"").decode("utf-8-sig", errors="replace").rstrip("\r\n").split("\t")
    columns = [name.strip() for name in header]
    if columns.count("caption") == columns.count("image") == 1:
        return columns
    if "url" in columns or any(name.startswith(("http://", "https://")) for name in columns):
        raise MissingInputError(
            f"{path} holds captions and URLs, but no pictures, and nothing is downloaded here. Download it with img2dataset "
            "(--input_format tsv --output_format webdataset; give it the header caption, url) and read the tars with "
            "corpus.type=webdataset."
        )
    raise MissingInputError(
        f"{path} has the columns {columns[:5]}; the columns 'caption' and 'image' are needed, separated by tabs, each once. "
        "Write them as its first line."
    )
