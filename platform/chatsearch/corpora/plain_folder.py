"""A folder of pictures with nothing beside them: each is a gallery item under its path in the folder."""

from __future__ import annotations

from collections.abc import Iterator

from chatsearch.config import digest
from chatsearch.corpora.base import Partition, Rejected, Sample
from chatsearch.corpora.config import PlainFolderConfig
from chatsearch.corpora.picture_folder import PictureFolder
from chatsearch.errors import BadImageError, MissingInputError
from chatsearch.types import Document, Kind, Segment, content_hash

SUFFIXES = frozenset({"jpg", "jpeg", "png", "webp"})
"""What is read; a file with another suffix is set aside by name."""
_FORMAT_VERSION = 1


class PlainFolder:
    """Reader of all pictures below a folder. Files and folders whose name begins with a dot are no part of it."""

    name = "plain_folder"

    def __init__(self, config: PlainFolderConfig) -> None:
        self.config = config
        self._pictures = PictureFolder(config.path)
        found = self._pictures.sizes()
        self._sizes = {n: found[n] for n in sorted(found) if not any(part.startswith(".") for part in n.split("/"))}
        if not self._sizes:
            raise MissingInputError(f"Folder {self._pictures} is missing or empty. Check the path of the corpus.")
        if not any(_suffix(name) in SUFFIXES for name in self._sizes):
            raise MissingInputError(
                f"None of the {len(self._sizes)} files below {self._pictures} is a picture by its name, the first is "
                f"{next(iter(self._sizes))!r}. Known are {', '.join(sorted(SUFFIXES))}."
            )

    def fingerprint(self) -> str:
        """Hash of configuration, paths and sizes; where the folder lies does not matter.

        The pictures' bytes are not read for it: one replaced by another of the very same size goes unnoticed.
        """
        return digest(self.name, _FORMAT_VERSION, self.config.content(), list(self._sizes.items()))

    def partitions(self) -> list[Partition]:
        """Runs of paths, sorted."""
        names, size = list(self._sizes), self.config.records_per_partition
        starts = range(0, len(names), size)
        return [Partition(n, {"files": names[start : start + size]}) for n, start in enumerate(starts)]

    def read(self, partition: Partition) -> Iterator[Sample | Rejected]:
        """One gallery item a picture."""
        for file in partition.payload["files"]:
            suffix = _suffix(file)
            try:
                if suffix not in SUFFIXES:
                    known = ", ".join(sorted(SUFFIXES))
                    raise BadImageError(f"suffix .{suffix[:20]} is not read; known are {known}")
                data = self._pictures.read(file)
            except BadImageError as error:
                yield Rejected(file, str(error))
                continue
            image = content_hash(data)
            document = Document(file, Kind.GALLERY, (Segment(image=image),), self.name, self.config.split)
            yield Sample(document, {image: data})


def _suffix(file: str) -> str:
    return file.rpartition(".")[2].lower()
