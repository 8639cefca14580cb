"""Checkpoints: what every rank writes, the manifest that makes them whole, and the check before they are opened.

    checkpoints/<run>/step-00000100-1f3a/
        deepspeed/state/...        weights, fp32 masters, optimiser: one file a rank, written by DeepSpeed (pickles)
        rank-00000.safetensors     queue and random states of one rank
        manifest.json              run, step, world size, versions, sha256 of every file; written last

A folder without a manifest is torn and is never looked at. DeepSpeed's files are pickles, which run code when they are
opened: they are opened only where the bytes on this machine's disk have the checksums of the manifest. Rank 0 checks all
files before it chooses a checkpoint, and every rank checks what it then copies from an object store.
"""

from __future__ import annotations

import datetime
import hashlib
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from chatsearch.errors import (
    ArtefactError,
    CorruptArtefactError,
    FingerprintMismatchError,
    IncompleteArtefactError,
    StorageError,
)
from chatsearch.manifest import MANIFEST, FileEntry
from chatsearch.storage import Folder, is_remote

FORMAT_VERSION = 1
STATE_FOLDER = "deepspeed"
_PIECE_BYTES = 8 << 20
_NAME = re.compile(r"step-(\d{8})-[0-9a-f]+")

logger = logging.getLogger(__name__)


class CheckpointManifest(BaseModel):
    """What a checkpoint is."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    format_version: int = FORMAT_VERSION
    run: str
    """Fingerprint of the run: configuration and inputs. Another run's checkpoint is refused."""
    step: int
    """Updates made; the data cursor, since the documents of a step are a function of its number."""
    world_size: int
    metrics: dict[str, float]
    """Of the last update: losses, learning rate, temperature, norms. Recorded only: the rate is a function of the step,
    and the temperature's parameter is among the weights."""
    versions: dict[str, str]
    created: str
    files: dict[str, FileEntry]


def checkpoint_name(step: int, token: str) -> str:
    """Folder name; the token keeps two attempts at one step apart."""
    return f"step-{step:08d}-{token}"


def rank_file(rank: int) -> str:
    """File with the queue and the random states of a rank."""
    return f"rank-{rank:05d}.safetensors"


def upload(scratch: str, target: Folder) -> dict[str, FileEntry]:
    """Copy all files below a local folder into the checkpoint and return their checksums."""
    local = Folder(scratch)
    entries: dict[str, FileEntry] = {}
    for name in local.list():
        target.upload(local.path(name), name)
        entries[name] = FileEntry(sha256=local.sha256(name), num_bytes=local.size(name))
    return entries


def commit(
    target: Folder,
    files: Mapping[str, FileEntry],
    *,
    run: str,
    step: int,
    world_size: int,
    metrics: Mapping[str, float],
    versions: Mapping[str, str],
) -> CheckpointManifest:
    """Write the manifest, which makes the checkpoint whole. Call it once all ranks have uploaded."""
    manifest = CheckpointManifest(
        run=run,
        step=step,
        world_size=world_size,
        metrics=dict(metrics),
        versions=dict(versions),
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        files=dict(files),
    )
    target.write_bytes(MANIFEST, manifest.model_dump_json(indent=1).encode())
    return manifest


@dataclass(frozen=True)
class SavedCheckpoint:
    """A checkpoint whose manifest and checksums held when it was opened."""

    folder: Folder
    manifest: CheckpointManifest

    @classmethod
    def open(cls, folder: Folder, *, run: str, world_size: int) -> SavedCheckpoint:
        """Check a checkpoint before anything in it is read.

        Raises:
            IncompleteArtefactError: it has no manifest.
            CorruptArtefactError: the manifest or a file is damaged, or a file is missing.
            FingerprintMismatchError: it belongs to another run or another number of workers.
        """
        if not folder.exists(MANIFEST):
            raise IncompleteArtefactError(f"{folder} has no {MANIFEST}: writing it was interrupted. Delete it.")
        try:
            manifest = CheckpointManifest.model_validate_json(folder.read_bytes(MANIFEST))
        except ValidationError as error:
            raise CorruptArtefactError(
                f"{folder.path(MANIFEST)} is no checkpoint manifest: {error.errors()[0]['msg']}. Delete the folder."
            ) from error
        if manifest.format_version != FORMAT_VERSION:
            raise CorruptArtefactError(
                f"{folder} has checkpoint format {manifest.format_version}; this version reads {FORMAT_VERSION}."
            )
        if manifest.run != run:
            raise FingerprintMismatchError(
                f"{folder} belongs to run {manifest.run}, this configuration makes run {run}. Choose another output, or start anew "
                "with --set overwrite=true."
            )
        if manifest.world_size != world_size:
            raise FingerprintMismatchError(
                f"{folder} was written by {manifest.world_size} workers, this run has {world_size}. Set "
                f"num_workers={manifest.world_size}."
            )
        present = set(folder.list())
        for name, entry in manifest.files.items():
            if name not in present:
                raise CorruptArtefactError(f"{folder.path(name)} is missing. Delete the checkpoint {folder}.")
            _compare(folder, name, folder.sha256(name), entry)
        return cls(folder, manifest)

    def fetch(self, scratch: str) -> Path:
        """A local folder with its files: the checkpoint itself where it is local, else copies below ``scratch``.

        A copy is hashed on its way to the disk, a piece at a time.

        Raises:
            CorruptArtefactError: a copy is not what the manifest says; it is deleted.
            StorageError: the store or the local disk failed.
        """
        if not is_remote(self.folder.uri):
            return Path(self.folder.uri)
        for name, entry in self.manifest.files.items():
            target = Path(scratch, name)
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                _compare(self.folder, name, _copy(self.folder, name, target), entry)
            except CorruptArtefactError:
                target.unlink()
                raise
        return Path(scratch)


def _copy(folder: Folder, name: str, target: Path) -> str:
    """Copy one file to the local disk; returns the sha256 of what was written."""
    hasher = hashlib.sha256()
    try:
        with folder.opened(name) as source, target.open("wb") as sink:
            while piece := source.read(_PIECE_BYTES):
                hasher.update(piece)
                sink.write(piece)
    except OSError as error:
        raise StorageError(
            f"Cannot copy {folder.path(name)} to {target}: {' '.join(str(error).split())[:300]}. Check the store and the room on "
            "the local disk, then run the same command again."
        ) from error
    return hasher.hexdigest()


def _compare(folder: Folder, name: str, actual: str, entry: FileEntry) -> None:
    if actual != entry.sha256:
        raise CorruptArtefactError(
            f"{folder.path(name)} is damaged: sha256 {actual[:12]}, manifest says {entry.sha256[:12]}. Delete the checkpoint "
            f"{folder}."
        )


def newest(root: Folder, *, run: str, world_size: int) -> SavedCheckpoint | None:
    """The last whole checkpoint below ``root``, or None when there is none at all.

    A damaged one is named in the log and the one before it is taken.

    Raises:
        ArtefactError: there are finished checkpoints, but none of them holds.
    """
    names = [name for name in root.list(recursive=False) if _NAME.fullmatch(name)]
    refused: ArtefactError | None = None
    for name in sorted(names, reverse=True):
        folder = root.child(name)
        if not folder.exists(MANIFEST):
            continue
        try:
            return SavedCheckpoint.open(folder, run=run, world_size=world_size)
        except CorruptArtefactError as error:
            logger.warning("%s Going back to the checkpoint before it.", error)
            refused = error
    if refused is not None:
        raise refused
    return None


def sweep(root: Folder) -> None:
    """Delete what interrupted attempts left half-written. Call it while nobody writes."""
    for name in root.list(recursive=False):
        if _NAME.fullmatch(name) and not root.child(name).exists(MANIFEST):
            root.child(name).delete_all()


def prune(root: Folder, keep: int) -> None:
    """Delete all but the newest ``keep`` checkpoints."""
    for name in [name for name in root.list(recursive=False) if _NAME.fullmatch(name)][:-keep]:
        root.child(name).delete_all()
