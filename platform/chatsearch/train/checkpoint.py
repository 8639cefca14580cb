"""Checkpoints: the manifest that makes the files of all ranks one whole, and the checks before they are opened.

    checkpoints/<run>/step-00000100-1f3a/
        rank-00000.safetensors     a rank's share of weights and optimiser in fp32, and its random states
        common.safetensors         the queue, the same on every rank
        manifest.json              run, step, world size, versions, sha256 of every file; written last

A folder without a manifest is torn and is never opened. No file is a pickle, and none is read before its bytes have had
the checksum of the manifest: the ranks share that work before a run goes on, and a copy from an object store is hashed again.
"""

from __future__ import annotations

import datetime
import hashlib
import logging
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from chatsearch.errors import ArtefactError, CorruptArtefactError, FingerprintMismatchError, StorageError
from chatsearch.manifest import MANIFEST, FileEntry
from chatsearch.storage import Folder, is_remote

FORMAT_VERSION = 2
COMMON_FILE = "common.safetensors"
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
    """Ranks that wrote it. Another number may read it."""
    metrics: dict[str, float]
    """Of the last update: losses, learning rate, temperature, norms."""
    versions: dict[str, str]
    created: str
    files: dict[str, FileEntry]
    seal: str = ""
    """sha256 of all the other fields: nothing else would notice a damaged manifest that still reads well."""

    def sealed(self) -> CheckpointManifest:
        """The same with its seal."""
        return self.model_copy(update={"seal": self._seal()})

    def holds(self) -> bool:
        """Whether the seal is that of the fields."""
        return self.seal == self._seal()

    def _seal(self) -> str:
        return hashlib.sha256(self.model_dump_json(exclude={"seal"}).encode()).hexdigest()


def checkpoint_name(step: int, token: str) -> str:
    """Folder name; the token keeps two attempts at one step apart."""
    return f"step-{step:08d}-{token}"


def rank_file(rank: int) -> str:
    """File with what one rank holds."""
    return f"rank-{rank:05d}.safetensors"


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
    """Write the manifest, which makes the checkpoint whole. Call it once all ranks have written."""
    manifest = CheckpointManifest(
        run=run,
        step=step,
        world_size=world_size,
        metrics=dict(metrics),
        versions=dict(versions),
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        files=dict(files),
    ).sealed()
    target.write_bytes(MANIFEST, manifest.model_dump_json(indent=1).encode())
    return manifest


@dataclass(frozen=True)
class SavedCheckpoint:
    """A checkpoint with a manifest that holds. Its files have been checked where :func:`first_whole` has returned it."""

    folder: Folder
    manifest: CheckpointManifest

    @classmethod
    def open(cls, folder: Folder, *, run: str) -> SavedCheckpoint:
        """Read and check the manifest; no other file is opened.

        Raises:
            CorruptArtefactError: it is none of ours, damaged, or of another format or step than the folder's name says.
            FingerprintMismatchError: it belongs to another run.
        """
        path = folder.path(MANIFEST)
        try:
            manifest = CheckpointManifest.model_validate_json(folder.read_bytes(MANIFEST))
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise CorruptArtefactError(
                f"{path} is no checkpoint manifest of this version ({where or 'its text'}: {first['msg']}). Delete the folder."
            ) from error
        if manifest.format_version != FORMAT_VERSION:
            raise CorruptArtefactError(
                f"{folder} has checkpoint format {manifest.format_version}; this version reads {FORMAT_VERSION}."
            )
        if not manifest.holds():
            raise CorruptArtefactError(f"{path} is damaged: it is not what was sealed. Delete the checkpoint {folder}.")
        if not Path(folder.uri).name.startswith(checkpoint_name(manifest.step, "")):
            raise CorruptArtefactError(
                f"{path} is of step {manifest.step}, its folder is another's. Delete the checkpoint {folder}."
            )
        if manifest.run != run:
            raise FingerprintMismatchError(
                f"{folder} belongs to run {manifest.run}, this configuration makes run {run}. Choose another output, or start anew "
                "with --set overwrite=true."
            )
        return cls(folder, manifest)

    def rank_files(self) -> list[str]:
        """The files of all ranks that wrote it, by rank."""
        return [rank_file(rank) for rank in range(self.manifest.world_size)]

    def damage(self, rank: int = 0, world_size: int = 1) -> CorruptArtefactError | None:
        """What is wrong with this rank's share of the files, named; None when it holds.

        Each file is hashed by one of ``world_size`` ranks: with all their answers the checkpoint is known to be whole.
        """
        wanted = [*self.rank_files(), COMMON_FILE]
        present = self.folder.sizes()
        for name in wanted:
            entry = self.manifest.files.get(name)
            if entry is None or name not in present:
                return CorruptArtefactError(
                    f"{self.folder.path(name)} is missing. Delete the checkpoint {self.folder}."
                )
            if present[name] != entry.num_bytes:
                return CorruptArtefactError(
                    f"{self.folder.path(name)} is damaged: {present[name]} bytes, manifest says {entry.num_bytes}. Delete the "
                    f"checkpoint {self.folder}."
                )
        try:
            for name in wanted[rank::world_size]:
                self._compare(name, self.folder.sha256(name))
        except CorruptArtefactError as error:
            return error
        return None

    def fetch(self, names: Iterable[str], scratch: str) -> Path:
        """A local folder with some of its files: the checkpoint itself where it is local, else copies below ``scratch``.

        A copy is hashed on its way to the disk, a piece at a time.

        Raises:
            CorruptArtefactError: a copy is not what the manifest says; it is deleted.
            StorageError: the store or the local disk failed.
        """
        if not is_remote(self.folder.uri):
            return Path(self.folder.uri)
        for name in names:
            target = Path(scratch, name)
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                self._compare(name, _copy(self.folder, name, target))
            except CorruptArtefactError:
                target.unlink()
                raise
        return Path(scratch)

    def _compare(self, name: str, actual: str) -> None:
        wanted = self.manifest.files[name].sha256
        if actual != wanted:
            raise CorruptArtefactError(
                f"{self.folder.path(name)} is damaged: sha256 {actual[:12]}, manifest says {wanted[:12]}. Delete the checkpoint "
                f"{self.folder}."
            )


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


def committed(root: Folder, *, run: str) -> list[SavedCheckpoint | CorruptArtefactError]:
    """All checkpoints below ``root`` that have a manifest, newest first, or what is wrong with their manifests.

    Raises:
        FingerprintMismatchError: one belongs to another run.
    """
    held: list[SavedCheckpoint | CorruptArtefactError] = []
    for folder in reversed(_folders(root)):
        if folder.exists(MANIFEST):
            try:
                held.append(SavedCheckpoint.open(folder, run=run))
            except CorruptArtefactError as error:
                held.append(error)
    return held


def first_whole(
    held: Sequence[SavedCheckpoint | CorruptArtefactError],
    damage: Callable[[SavedCheckpoint], CorruptArtefactError | None] = SavedCheckpoint.damage,
) -> SavedCheckpoint | None:
    """The first whose files hold, or None when there is none at all. A damaged one is named in the log.

    Args:
        held: from :func:`committed`.
        damage: looks at one; where several ranks share the work they all call this and get the same answer.

    Raises:
        ArtefactError: there are finished checkpoints, but none of them holds.
    """
    refused: ArtefactError | None = None
    for saved in held:
        error = damage(saved) if isinstance(saved, SavedCheckpoint) else saved
        if error is None:
            assert isinstance(saved, SavedCheckpoint)
            return saved
        logger.warning("%s Going back to the checkpoint before it.", error)
        refused = error
    if refused is not None:
        raise refused
    return None


def sweep(root: Folder) -> None:
    """Delete what interrupted attempts left half-written, each named in the log. Call it while nobody writes."""
    for folder in _folders(root):
        if not folder.exists(MANIFEST):
            logger.warning("%s has no %s: writing it was interrupted. Deleting it.", folder, MANIFEST)
            folder.delete_all()


def prune(root: Folder, keep: int) -> None:
    """Delete all but the newest ``keep`` checkpoints. Killed half-way, what is left of one is torn, not damaged."""
    for folder in _folders(root)[:-keep]:
        folder.delete(MANIFEST)
        folder.delete_all()


def _folders(root: Folder) -> list[Folder]:
    """Checkpoints below ``root``, whole or not, oldest first."""
    return [root.child(name) for name in root.list(recursive=False) if _NAME.fullmatch(name)]
