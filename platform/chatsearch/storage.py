"""Folders at URIs: local paths and ``s3://`` behave the same.

S3 takes its credentials, region and endpoint from the usual AWS variables (``AWS_ACCESS_KEY_ID``,
``AWS_SECRET_ACCESS_KEY``, ``AWS_REGION``, ``AWS_ENDPOINT_URL``), so any S3 server works.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import os
import shutil
import stat
import tempfile
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chatsearch.errors import ChatSearchError, MissingInputError, StorageError

if TYPE_CHECKING:
    from pyarrow import NativeFile
    from pyarrow.fs import FileSystem


def is_remote(uri: str) -> bool:
    """Whether a URI names an object store rather than a local path."""
    return "://" in uri and not uri.startswith("file://")


def resolve(uri: str) -> str:
    """Absolute local path, or the URI without a trailing slash."""
    if is_remote(uri):
        return uri.rstrip("/")
    return os.path.abspath(os.path.expanduser(uri.removeprefix("file://")))


def join(uri: str, *names: str) -> str:
    """A path below a URI."""
    return "/".join([uri.rstrip("/"), *names])


@functools.lru_cache(maxsize=32)
def _s3(endpoint: str | None, region: str | None, access_key: str | None) -> FileSystem:
    from pyarrow.fs import AwsStandardS3RetryStrategy, S3FileSystem

    options: dict[str, Any] = {
        "retry_strategy": AwsStandardS3RetryStrategy(max_attempts=3),
        "region": region or "us-east-1",
    }
    if endpoint:
        scheme, _, address = endpoint.rpartition("://")
        options |= {"endpoint_override": address, "scheme": scheme or "https"}
    del access_key  # only a cache key: other credentials, other connection
    return S3FileSystem(connect_timeout=10, request_timeout=60, **options)


def filesystem(uri: str) -> tuple[FileSystem, str]:
    """The pyarrow file system of a URI and the path inside it.

    Raises:
        StorageError: for a scheme other than a local path or ``s3://``.
    """
    from pyarrow.fs import LocalFileSystem

    uri = resolve(uri)
    if not is_remote(uri):
        return LocalFileSystem(), uri
    scheme, _, path = uri.partition("://")
    if scheme != "s3":
        raise StorageError(
            f"Cannot open {uri!r}: scheme {scheme!r} is not supported. Use a local path or s3://bucket/prefix."
        )
    env = os.environ.get
    return _s3(env("AWS_ENDPOINT_URL"), env("AWS_REGION") or env("AWS_DEFAULT_REGION"), env("AWS_ACCESS_KEY_ID")), path


@contextlib.contextmanager
def _named_errors(action: str, uri: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise MissingInputError(f"Cannot {action} {uri}: it does not exist.") from error
    except UnicodeEncodeError as error:
        uri = uri.encode(errors="backslashreplace").decode()
        raise StorageError(f"Cannot {action} {uri}: its name is not UTF-8. Rename it, or move it elsewhere.") from error
    except Exception as error:
        # FAISS and safetensors write by themselves, and put what the system says into the text of an error of their own.
        full = not isinstance(error, ChatSearchError) and os.strerror(errno.ENOSPC) in str(error)
        if not (full or isinstance(error, OSError)):
            raise
        hint = {
            errno.ENOSPC: "The disk is full: free some space and run the same command again.",
            errno.EROFS: "The file system is read-only: choose another output.",
            errno.EACCES: "Permission denied: choose another output or fix the permissions.",
            errno.ENOTDIR: "A file is where a folder should be: name a folder.",
            errno.EISDIR: "A folder is where a file should be: name a file.",
        }.get(errno.ENOSPC if full else getattr(error, "errno", 0))
        hint = hint or "Check the address, the credentials and that the store is up, then run the same command again."
        detail = " ".join(str(error).split())[:300]
        raise StorageError(f"Cannot {action} {uri}: {detail}. {hint}") from error


def _put(local: str, target: str) -> None:
    """Copy a local file to an object store, whole or not at all."""
    fs, path = filesystem(target)
    with open(local, "rb") as source:
        sink = fs.open_output_stream(path)
        try:
            with sink:
                shutil.copyfileobj(source, sink, 8 << 20)
        except BaseException:
            # Leaving the block has closed the stream, and closing completes the upload of what was sent so far.
            with contextlib.suppress(OSError):
                fs.delete_file(path)
            raise


def _local_entries(
    folder: str, *, recursive: bool, above: frozenset[tuple[int, int]] = frozenset()
) -> Iterator[tuple[str, int]]:
    """Path and bytes of the files below a local folder; without ``recursive`` of all that is directly in it.

    Links are followed, but none to a folder that it lies in. pyarrow goes round such links for ever, and stops at any name that
    is not UTF-8.
    """
    try:
        held = os.stat(folder)
        entries = list(os.scandir(folder))
    except FileNotFoundError:
        return
    if (held.st_dev, held.st_ino) in above:
        return
    above |= {(held.st_dev, held.st_ino)}
    for entry in entries:
        try:
            mode, num_bytes = (found := entry.stat()).st_mode, found.st_size
        except OSError:  # a link to nowhere or to itself, or a file that has just gone
            mode, num_bytes = 0, 0
        if recursive and stat.S_ISDIR(mode):
            yield from _local_entries(entry.path, recursive=True, above=above)
        elif not entry.name.startswith(".tmp-") and (stat.S_ISREG(mode) or not recursive):
            yield entry.path, num_bytes


def _sync_folder(path: str) -> None:
    """Make the names in a local folder durable: without it a power cut may lose a file whose bytes are on the disk."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def cache_root() -> str:
    """The folder of local copies: what ``CHATSEARCH_CACHE`` names, else one below /tmp that is ours alone.

    Raises:
        StorageError: somebody else owns it or may write there, so its files may not be what they seem.
    """
    named = os.environ.get("CHATSEARCH_CACHE")
    root = named or os.path.join(tempfile.gettempdir(), f"chatsearch-cache-{os.getuid()}")
    with _named_errors("create", root):
        os.makedirs(root, mode=0o700, exist_ok=True)
        held = os.lstat(root)
    if named is None and not (stat.S_ISDIR(held.st_mode) and held.st_uid == os.getuid() and not held.st_mode & 0o022):
        raise StorageError(
            f"{root} (owner {held.st_uid}, mode {stat.filemode(held.st_mode)}) is not a folder that this user alone can write to. "
            "Remove it, or name another folder in CHATSEARCH_CACHE."
        )
    return root


@dataclass(frozen=True)
class Folder:
    """A folder at a URI. Writing a file is atomic: it is there whole or not at all."""

    uri: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "uri", resolve(self.uri))

    def __str__(self) -> str:
        return self.uri

    def child(self, *names: str) -> Folder:
        """A folder below this one."""
        return Folder(join(self.uri, *names))

    def path(self, name: str) -> str:
        """URI of a file in this folder."""
        return join(self.uri, name)

    def exists(self, name: str = "") -> bool:
        """Whether a file or, with no name, anything at all in the folder is there."""
        from pyarrow.fs import FileType

        if not name:
            return bool(self.list(recursive=False))
        with _named_errors("look up", self.path(name)):
            fs, path = filesystem(self.path(name))
            return fs.get_file_info(path).type == FileType.File

    def size(self, name: str) -> int:
        """Bytes of one file."""
        with _named_errors("look up", self.path(name)):
            fs, path = filesystem(self.path(name))
            info = fs.get_file_info(path)
            if not info.is_file:
                raise FileNotFoundError(path)
            return info.size

    def list(self, prefix: str = "", *, recursive: bool = True) -> list[str]:
        """Names of the files (with ``recursive=False`` also folders) below ``prefix``, sorted, relative to this folder."""
        return sorted(self._entries(prefix, recursive=recursive))

    def sizes(self, prefix: str = "") -> dict[str, int]:
        """Bytes of every file below ``prefix``, by name, from one listing: on S3 a request per file is slow."""
        return self._entries(prefix, recursive=True)

    def _entries(self, prefix: str, *, recursive: bool) -> dict[str, int]:
        from pyarrow.fs import FileSelector, FileType

        with _named_errors("list", self.uri):
            if not is_remote(self.uri):
                found = _local_entries(join(self.uri, prefix) if prefix else self.uri, recursive=recursive)
                return {os.path.relpath(path, self.uri): num_bytes for path, num_bytes in found}
            fs, base = filesystem(self.uri)
            root = join(base, prefix) if prefix else base
            entries = fs.get_file_info(FileSelector(root, recursive=recursive, allow_not_found=True))
            return {
                os.path.relpath(e.path, base): e.size
                for e in entries
                if (e.type == FileType.File or not recursive) and not e.base_name.startswith(".tmp-")
            }

    def read_bytes(self, name: str) -> bytes:
        """The whole file."""
        with _named_errors("read", self.path(name)):
            fs, path = filesystem(self.path(name))
            with fs.open_input_stream(path) as stream:
                return stream.read()

    @contextlib.contextmanager
    def opened(self, name: str) -> Iterator[NativeFile]:
        """A stream over one file, read from its start to its end."""
        with _named_errors("read", self.path(name)):
            fs, path = filesystem(self.path(name))
            stream = fs.open_input_stream(path, compression=None)
        with stream:
            yield stream

    @contextlib.contextmanager
    def seekable(self, name: str) -> Iterator[NativeFile]:
        """One file for random access: of a Parquet file only what is asked for is fetched."""
        with _named_errors("read", self.path(name)):
            fs, path = filesystem(self.path(name))
            file = fs.open_input_file(path)
        with file:
            yield file

    def read_range(self, name: str, start: int, length: int) -> bytes:
        """``length`` bytes of a file from byte ``start`` on."""
        with _named_errors("read", self.path(name)):
            fs, path = filesystem(self.path(name))
            with fs.open_input_file(path) as handle:
                return handle.read_at(length, start)

    def write_bytes(self, name: str, data: bytes) -> None:
        """Write a file atomically and durably."""
        with self.writing(name) as local:
            Path(local).write_bytes(data)

    def create(self, name: str, data: bytes) -> bool:
        """Write a file atomically and durably unless one of this name is there: of several writers exactly one succeeds.

        Returns whether the file that is there now holds these very bytes, which tells writers apart only if each puts something
        unique into its own. An answer that was lost on the way from a store thus counts as what it was.

        Raises:
            StorageError: the store failed; the file may or may not have been written.
        """
        target = self.path(name)
        if is_remote(self.uri):
            filesystem(self.uri)  # refuses other schemes by name
            from chatsearch.conditional_put import put_if_absent

            return put_if_absent(target, data) or self.read_bytes(name) == data
        with _named_errors("create", target):
            folder = os.path.dirname(target)
            os.makedirs(folder, exist_ok=True)
            local = os.path.join(folder, f".tmp-{uuid.uuid4().hex}")
            try:
                with open(local, "wb") as handle:
                    handle.write(data)
                    handle.flush()
                    os.fsync(handle.fileno())
                os.link(local, target)  # unlike a rename it never replaces what is there
            except FileExistsError:
                return Path(target).read_bytes() == data
            finally:
                with contextlib.suppress(FileNotFoundError):
                    os.remove(local)
            _sync_folder(folder)
        return True

    @contextlib.contextmanager
    def writing(self, name: str) -> Iterator[str]:
        """A local path to write; on leaving without an error it becomes ``name``, whole."""
        target = self.path(name)
        with _named_errors("write", target):
            if is_remote(self.uri):
                with tempfile.TemporaryDirectory(prefix="chatsearch-") as scratch:
                    local = os.path.join(scratch, "file")
                    yield local
                    _put(local, target)
                return
            folder = os.path.dirname(target)
            os.makedirs(folder, exist_ok=True)
            local = os.path.join(folder, f".tmp-{uuid.uuid4().hex}")
            try:
                yield local
                with open(local, "rb") as handle:
                    os.fsync(handle.fileno())
                os.replace(local, target)
            finally:
                with contextlib.suppress(FileNotFoundError):
                    os.remove(local)

    def upload(self, local: str | Path, name: str) -> None:
        """Copy one local file in, atomically."""
        with self.writing(name) as scratch:
            shutil.copyfile(local, scratch)

    def local_path(self, name: str) -> str:
        """A local file with this content: the file itself, or a copy cached by URI and size."""
        if not is_remote(self.uri):
            if not os.path.exists(self.path(name)):
                raise MissingInputError(f"Cannot read {self.path(name)}: it does not exist.")
            return self.path(name)
        cached = self._cached_path(name)
        if not os.path.exists(cached):
            fs, path = filesystem(self.path(name))
            whole = Folder(os.path.dirname(cached)).writing(os.path.basename(cached))
            with whole as scratch, fs.open_input_stream(path) as source, open(scratch, "wb") as sink:
                shutil.copyfileobj(source, sink, 8 << 20)
        return cached

    def drop_cached(self, name: str) -> None:
        """Remove this machine's copy of a remote file that is there still; where there is none that is fine."""
        if is_remote(self.uri):
            with contextlib.suppress(FileNotFoundError):
                os.remove(self._cached_path(name))

    def _cached_path(self, name: str) -> str:
        with _named_errors("look up", self.path(name)):
            fs, path = filesystem(self.path(name))
            info = fs.get_file_info(path)
        key = hashlib.sha256(f"{self.path(name)}|{info.size}|{info.mtime_ns}".encode()).hexdigest()[:24]
        return os.path.join(cache_root(), key, os.path.basename(name))

    def delete(self, name: str) -> None:
        """Remove one file; a missing one is fine."""
        with _named_errors("delete", self.path(name)), contextlib.suppress(FileNotFoundError):
            fs, path = filesystem(self.path(name))
            fs.delete_file(path)

    def delete_all(self, *, keep: str = "") -> None:
        """Remove the folder with all it holds, or all but the one file directly in it that is named."""
        from pyarrow.fs import FileSelector

        with _named_errors("delete", self.uri), contextlib.suppress(FileNotFoundError):
            fs, path = filesystem(self.uri)
            if not keep:
                fs.delete_dir(path)
                return
            if not is_remote(self.uri):
                for held in os.scandir(path):
                    if held.name != keep:
                        shutil.rmtree(held) if held.is_dir(follow_symlinks=False) else os.remove(held)
                return
            for entry in fs.get_file_info(FileSelector(path)):
                if entry.base_name != keep:
                    (fs.delete_file if entry.is_file else fs.delete_dir)(entry.path)

    def sha256(self, name: str) -> str:
        """sha256 of one file, in hex."""
        hasher = hashlib.sha256()
        with _named_errors("read", self.path(name)):
            fs, path = filesystem(self.path(name))
            with fs.open_input_stream(path) as stream:
                while chunk := stream.read(8 << 20):
                    hasher.update(chunk)
        return hasher.hexdigest()
