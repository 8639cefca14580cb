"""Artefacts: a folder at a URI whose manifest is written last.

A present manifest means complete. That is how a job resumes, how a rerun of a finished job does nothing,
and how two artefacts that do not belong together are told apart.

Fingerprint = hash of (kind, format version, fingerprints of the inputs, the configuration fields that
change the bytes). Code version, time and host are recorded beside it but are not part of it.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import os
import platform
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from chatsearch import __version__
from chatsearch.config import Config, digest
from chatsearch.errors import (
    ConfigError,
    ConflictingOutputError,
    CorruptArtefactError,
    FingerprintMismatchError,
    IncompleteArtefactError,
)
from chatsearch.storage import Folder, is_remote, resolve

MANIFEST = "manifest.json"
_STARTED = "started.json"
_BEING_REPLACED = "none: being replaced"
SCHEMA_VERSION = 1


class FileEntry(BaseModel):
    """Checksum and size of one file of an artefact."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    sha256: str
    num_bytes: int


class Manifest(BaseModel):
    """What an artefact is and what made it."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    schema_version: int = SCHEMA_VERSION
    kind: str
    fingerprint: str
    inputs: dict[str, str]
    """Fingerprint of each input, by name."""
    config: dict[str, Any]
    counts: dict[str, int]
    id_hash: str | None = None
    """Order-independent hash of the ids inside, see :func:`hash_ids`."""
    facts: dict[str, Any] = {}
    """What readers of this kind need to know: dimension, encoder fingerprint, preprocessing id, URIs."""
    files: dict[str, FileEntry]
    provenance: dict[str, str] = {}
    """Code version, time and host. Recorded, never compared."""
    seal: str = ""
    """Hash of all the other fields: nothing else would notice a damaged manifest that still reads well. Empty in manifests of
    versions that had none."""


def hash_ids(ids: Iterable[str]) -> str:
    """sha256 over the sorted ids, each with its length before it: the same ids give the same hash in any order."""
    hasher = hashlib.sha256()
    for item in sorted(ids):
        data = item.encode()
        hasher.update(b"%d:" % len(data) + data)
    return hasher.hexdigest()


def fingerprint(kind: str, config: Config, inputs: Mapping[str, str]) -> str:
    """The identity of what a job with this configuration makes of these inputs."""
    return digest(kind, SCHEMA_VERSION, dict(inputs), config.content())


@dataclass(frozen=True)
class Artefact:
    """A finished artefact, opened: its folder and its manifest."""

    folder: Folder
    manifest: Manifest

    @property
    def uri(self) -> str:
        """Where it lies."""
        return self.folder.uri

    @property
    def fingerprint(self) -> str:
        """What it is."""
        return self.manifest.fingerprint

    def read_checked(self, name: str) -> bytes:
        """The whole of a small file that is exactly what the manifest says.

        Raises:
            CorruptArtefactError: naming the file, if its checksum does not hold.
        """
        self._entry(name)
        data = self.folder.read_bytes(name)
        self._check(name, hashlib.sha256(data).hexdigest())
        return data

    def verify(self, names: Iterable[str] | None = None) -> None:
        """Recompute checksums of the named files, or of all.

        Raises:
            CorruptArtefactError: naming the first file that does not hold.
        """
        for name in names if names is not None else self.manifest.files:
            self._check(name, self.folder.sha256(name))

    def checked_path(self, name: str) -> str:
        """A local file that holds exactly what the manifest says; remote files are copied into the cache first.

        Raises:
            CorruptArtefactError: naming the file, if its checksum does not hold.
        """
        local = self.folder.local_path(name)
        if is_remote(self.uri) and _local_sha256(local) != self._entry(name).sha256:
            os.remove(local)  # a cached copy may have gone bad by itself: the original decides
            local = self.folder.local_path(name)
        self._check(name, _local_sha256(local))
        return local

    def _entry(self, name: str) -> FileEntry:
        entry = self.manifest.files.get(name)
        if entry is None:
            raise CorruptArtefactError(f"{self.uri} has no file {name!r} in its manifest. Make the artefact again.")
        return entry

    def _check(self, name: str, actual: str) -> None:
        wanted = self._entry(name).sha256
        if actual != wanted:
            raise CorruptArtefactError(
                f"{self.folder.path(name)} is damaged: sha256 {actual[:12]}, manifest says {wanted[:12]}. "
                "Restore the file or make the artefact again with --set overwrite=true."
            )


def _local_sha256(path: str) -> str:
    return Folder(os.path.dirname(path)).sha256(os.path.basename(path))


def read_manifest(uri: str) -> Manifest | None:
    """The manifest at a URI, or None when there is none.

    Raises:
        CorruptArtefactError: if it cannot be read as a manifest of this version.
    """
    folder = Folder(uri)
    if not folder.exists(MANIFEST):
        return None
    data = folder.read_bytes(MANIFEST)
    try:
        manifest = Manifest.model_validate_json(data)
    except ValidationError as error:
        raise CorruptArtefactError(
            f"{folder.path(MANIFEST)} is not a manifest of this project: {error.errors()[0]['msg']}. If it was one, remove the folder by "
            "hand and make the artefact again."
        ) from error
    if manifest.schema_version != SCHEMA_VERSION:
        raise CorruptArtefactError(
            f"{uri} was written with schema {manifest.schema_version}; this version reads {SCHEMA_VERSION}. Make it again."
        )
    if manifest.seal and manifest.seal != _seal(data):
        raise CorruptArtefactError(
            f"{folder.path(MANIFEST)} is damaged: it is not what was sealed. Restore the file, or remove the folder by hand and make "
            "the artefact again."
        )
    return manifest


def _seal(manifest_json: bytes) -> str:
    """Hash of the fields as they are written, whichever fields this version knows."""
    return digest({name: value for name, value in json.loads(manifest_json).items() if name != "seal"})


def open_artefact(uri: str, kind: str, *, verify: bool = False) -> Artefact:
    """Open a finished artefact of one kind; with ``verify`` its checksums are recomputed.

    Raises:
        IncompleteArtefactError: nothing finished lies there.
        FingerprintMismatchError: it is an artefact of another kind.
        CorruptArtefactError: a file is missing, of another size, or (with ``verify``) of other content.
    """
    folder = Folder(uri)
    manifest = read_manifest(uri)
    if manifest is None:
        state = (
            "the job that makes it has not finished; run that job's command again to continue it"
            if folder.exists()
            else "nothing is there; check the URI, or make it first (README.md, Jobs)"
        )
        raise IncompleteArtefactError(f"No finished {kind} at {folder.uri}: {state}.")
    if manifest.kind != kind:
        raise FingerprintMismatchError(f"{folder.uri} holds a {manifest.kind}, not a {kind}. Check the URI.")
    artefact = Artefact(folder, manifest)
    present = folder.sizes()
    for name, entry in manifest.files.items():
        if present.get(name) != entry.num_bytes:
            what = f"has {present[name]} bytes, manifest says {entry.num_bytes}" if name in present else "is missing"
            raise CorruptArtefactError(
                f"{folder.path(name)} {what}. Make the artefact again with --set overwrite=true."
            )
    if verify:
        artefact.verify()
    return artefact


@dataclass(frozen=True)
class Output:
    """An output folder that a job has taken: finished already, or to be written."""

    folder: Folder
    kind: str
    config: Config
    inputs: Mapping[str, str]
    finished: Artefact | None

    def commit(
        self,
        *,
        counts: Mapping[str, int],
        files: Mapping[str, FileEntry] | Iterable[str] | None = None,
        id_hash: str | None = None,
        facts: Mapping[str, Any] | None = None,
    ) -> Artefact:
        """Write the manifest, which makes the artefact complete.

        ``files``: entries known already, names to hash now, or None for everything in the folder.
        """
        if not isinstance(files, Mapping):
            names = self.folder.list() if files is None else list(files)
            files = {name: file_entry(self.folder, name) for name in names if name not in (MANIFEST, _STARTED)}
        manifest = Manifest(
            kind=self.kind,
            fingerprint=fingerprint(self.kind, self.config, self.inputs),
            inputs=dict(self.inputs),
            config=self.config.model_dump(mode="json"),
            counts=dict(counts),
            id_hash=id_hash,
            facts=dict(facts or {}),
            files=dict(files),
            provenance={
                "chatsearch": __version__,
                "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
                "host": platform.node(),
            },
        )
        manifest = manifest.model_copy(update={"seal": _seal(manifest.model_dump_json().encode())})
        self.folder.write_bytes(MANIFEST, manifest.model_dump_json(indent=1).encode())
        self.folder.delete(_STARTED)
        return Artefact(self.folder, manifest)

    def withdraw(self) -> None:
        """Leave the folder as it was found, for a job that refuses its configuration before it has written anything there."""
        if self.folder.list() == [_STARTED]:
            self.folder.delete(_STARTED)


def file_entry(folder: Folder, name: str) -> FileEntry:
    """Hash one file of a folder."""
    return FileEntry(sha256=folder.sha256(name), num_bytes=folder.size(name))


def begin_output(
    uri: str,
    kind: str,
    config: Config,
    inputs: Mapping[str, str],
    *,
    overwrite: bool = False,
    before: Callable[[], object] = lambda: None,
) -> Output:
    """Take an output folder for a job.

    A finished output with this fingerprint is returned as ``finished``. An interrupted one with this
    fingerprint is continued, with ``overwrite`` too: what lies in the folder is kept. Anything else that a job
    has made there is replaced with ``overwrite`` and refused without; what no job has made is never deleted.

    ``before`` is called when the output is going to be made, and nothing there has changed yet: where it fails, nothing is lost.

    Raises:
        ConfigError: the output is one of the inputs that the configuration names, or holds it.
        ConflictingOutputError: the folder holds something else.
    """
    folder = Folder(uri)
    _refuse_inputs(folder, config)
    wanted = fingerprint(kind, config, inputs)
    held = _held(folder)
    taken = Output(folder, kind, config, inputs, None)
    if held is not None and (held.kind, held.fingerprint) == (kind, wanted):
        if held.begun:
            before()
            return taken
        if not overwrite:
            return replace(taken, finished=open_artefact(uri, kind))
    if held is not None and not overwrite:
        raise ConflictingOutputError(
            f"{folder.uri} already holds a {held.kind} with fingerprint {held.fingerprint}; this configuration makes a {kind} with "
            f"{wanted}. Choose another output, or replace it with --set overwrite=true."
        )
    if held is None and folder.exists():
        read_manifest(uri)  # says what is wrong with a damaged one
        raise ConflictingOutputError(
            f"{folder.uri} is not empty and was not made by a job of this project, so it is left as it is. Choose another output, "
            "or empty the folder by hand."
        )
    before()
    if held is not None:
        _clear(folder, kind)
    _mark_begun(folder, kind, wanted)
    return taken


def is_begun(uri: str) -> bool:
    """Whether a job has begun to write at a URI and has not finished."""
    held = _held(Folder(uri))
    return held is not None and held.begun


def input_uris(config: Config) -> Iterator[tuple[str, str]]:
    """Dotted key and URI of every place that a configuration names, other than its output."""
    return ((key, text) for key, text in _runtime_texts(config) if _is_place(text))


def _runtime_texts(config: Config, prefix: str = "") -> Iterator[tuple[str, str]]:
    # URIs of inputs are runtime fields: what counts is the fingerprint of what lies there.
    for name, info in type(config).model_fields.items():
        value, key = getattr(config, name), prefix + name
        extra = info.json_schema_extra
        is_runtime = isinstance(extra, dict) and bool(extra.get("runtime"))
        several = isinstance(value, (list, tuple))
        for inner, item in [(f"{key}.{n}", item) for n, item in enumerate(value)] if several else [(key, value)]:
            if isinstance(item, Config):
                yield from _runtime_texts(item, f"{inner}.")
            elif is_runtime and key != "output" and isinstance(item, str) and item:
                yield inner, item


def _is_place(text: str) -> bool:
    return text.startswith("s3://") or ("/" in text and not is_remote(text))


def _refuse_inputs(folder: Folder, config: Config) -> None:
    for key, text in _runtime_texts(config):  # a folder's bare name may be a place too
        if resolve(text) == folder.uri or resolve(text).startswith(f"{folder.uri}/"):
            raise ConfigError(f"output={folder.uri} is or holds the input {key}={text}. Choose another output.")


@dataclass(frozen=True)
class _Held:
    """What a job has made, or begun to make, in a folder."""

    kind: str
    fingerprint: str
    begun: bool


class _Identity(BaseModel):
    """What started markers and manifests of all versions have in common."""

    model_config = ConfigDict(frozen=True, extra="ignore")
    kind: str
    fingerprint: str


def _held(folder: Folder) -> _Held | None:
    """None where neither a manifest nor a started marker of ours lies: whatever else lies there is none of our business."""
    for name in (MANIFEST, _STARTED):
        if folder.exists(name):
            try:
                found = _Identity.model_validate_json(folder.read_bytes(name))
            except ValidationError:
                continue
            return _Held(found.kind, found.fingerprint, begun=name == _STARTED)
    return None


def _clear(folder: Folder, kind: str) -> None:
    """Remove all that a job has made. Killed half-way, the folder is still known as a job's and nothing in it as whole."""
    _mark_begun(folder, kind, _BEING_REPLACED)
    folder.delete(MANIFEST)
    folder.delete_all(keep=_STARTED)


def _mark_begun(folder: Folder, kind: str, fingerprint: str) -> None:
    folder.write_bytes(_STARTED, _Identity(kind=kind, fingerprint=fingerprint).model_dump_json().encode())
