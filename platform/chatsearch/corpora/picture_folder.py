"""A folder of pictures that a corpus names by relative paths, on disk or in a bucket."""

from __future__ import annotations

import hashlib
import os
import posixpath

from chatsearch.corpora.images import MAX_BYTES, check_image
from chatsearch.errors import BadImageError, MissingInputError
from chatsearch.storage import Folder, is_remote, join, resolve

_MAX_NAME_BYTES = 800
"""A key of S3 has at most 1,024 with the folder's; the store's answer to a longer one would end the job."""


class PictureFolder:
    """Pictures below one URI. Names come from outside: none leads out of the folder."""

    def __init__(self, uri: str) -> None:
        self._folder = Folder(uri)
        self._is_remote = is_remote(self._folder.uri)
        self._root = "" if self._is_remote else os.path.realpath(self._folder.uri).rstrip("/") + "/"

    def __str__(self) -> str:
        return str(self._folder)

    @classmethod
    def beside(cls, base: str, images: str) -> PictureFolder:
        """The folder ``images``, which is relative to ``base`` unless it is an absolute path or a URI."""
        if images.startswith(("/", "~")) or "://" in images:
            return cls(resolve(images))
        return cls(base if images in ("", ".") else join(base, images))

    def read(self, file: str) -> bytes:
        """The bytes of a picture that can be decoded.

        Args:
            file: its path in the folder.

        Raises:
            BadImageError: the path leaves the folder, nothing is there, or what is there is no acceptable picture.
        """
        name = posixpath.normpath(file)
        if posixpath.isabs(file) or name.split("/")[0] == ".." or "\\" in file or "\0" in file:
            raise BadImageError(f"path {file!r} leaves the folder; it must be relative and inside it")
        if name == "." or len(name.encode()) > _MAX_NAME_BYTES:
            raise BadImageError(f"no picture at {file[:200]!r}")
        num_bytes = MAX_BYTES + 1  # enough to refuse a picture, whatever its size
        if not self._is_remote:
            real = os.path.realpath(self._folder.path(name))
            if not (real + "/").startswith(self._root):
                raise BadImageError(f"path {file!r} leaves the folder through a link")
            if not os.path.isfile(real):  # nor a folder, nor a pipe that would be waited on
                raise BadImageError(f"no picture at {file!r}")
            num_bytes = min(num_bytes, os.path.getsize(real))  # a local read first makes room for all it was asked for
        try:
            data = self._folder.read_range(name, 0, num_bytes)
            check_image(data)
        except MissingInputError as error:
            raise BadImageError(f"no picture at {file!r}") from error
        except BadImageError as error:
            raise BadImageError(f"bad picture {file!r}: {error}") from error
        return data

    def sizes(self) -> dict[str, int]:
        """Bytes of every file, by name."""
        return self._folder.sizes()

    def listing(self) -> tuple[int, str]:
        """Number of files, and a hash of their names and sizes; no picture is read."""
        sizes = self.sizes()
        hasher = hashlib.sha256()
        for name in sorted(sizes):
            hasher.update(f"{name}\0{sizes[name]}\n".encode("utf-8", "surrogateescape"))
        return len(sizes), hasher.hexdigest()
