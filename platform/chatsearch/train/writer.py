"""What the ranks do together about checkpoints: find the one to go on from, and write the next while steps go on.

A step waits for copies of the state only; a thread of every rank writes and hashes them, the ranks exchange their
checksums in a process group of their own, and rank 0 writes the manifest. One checkpoint is under way at a time.

An object store that goes away is asked again until the next checkpoint is due. Then this one is given up, on all ranks: the
one before it holds, steps go on, and the next is tried.
"""

from __future__ import annotations

import functools
import importlib.metadata
import logging
import math
import secrets
import threading
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, Self

import torch.distributed as dist
from safetensors.torch import save_file

from chatsearch.errors import ChatSearchError, CorruptArtefactError, StorageError, UnreachableStoreError
from chatsearch.manifest import MANIFEST, FileEntry, file_entry
from chatsearch.patience import Patience
from chatsearch.storage import Folder
from chatsearch.train import checkpoint
from chatsearch.train.checkpoint import CheckpointManifest, SavedCheckpoint
from chatsearch.train.state import TensorFile

logger = logging.getLogger(__name__)
_MOST_FAILED = 10
"""So many checkpoints that are given up one after the other end the run: too much of it would hang on a store that may not come back."""
_PATIENCE_S = 60.0
"""How long a run that ends with an error waits for the checkpoint under way: the other ranks may be gone."""
_SAVE_TIMEOUT = timedelta(days=1)
"""A rank may wait this long for another one's files. One that has died is noticed by its connection, much earlier."""
_PACKAGES = ("chatsearch", "torch", "deepspeed", "ray")


def write_file(target: Folder, file: TensorFile) -> FileEntry:
    """Write one file into a checkpoint, whole or not at all; returns its checksum."""
    with target.writing(file.name) as local:
        save_file(dict(file.tensors), local, dict(file.metadata))
        Path(local).chmod(0o644)  # the library writes files that only their owner may read
        path = Path(local)
        return file_entry(Folder(str(path.parent)), path.name)


def find_checkpoint(root: Folder, run: str, patience: Patience | None = None) -> tuple[SavedCheckpoint | None, str]:
    """The newest whole checkpoint below ``root``, and a token that names those of this attempt. All ranks call it.

    Half-written ones are deleted. The ranks share the work of checking files and agree on what they find.

    Args:
        root: of the run's checkpoints.
        run: its fingerprint.
        patience: with an object store that does not answer.

    Raises:
        UnreachableStoreError: it has not come back.
        ArtefactError: there are finished checkpoints, but none of them holds, or one belongs to another run.
    """

    patience = patience or Patience(root.uri, 0.0)

    def look() -> tuple[list[SavedCheckpoint | CorruptArtefactError], str]:
        checkpoint.sweep(root)
        return checkpoint.committed(root, run=run), secrets.token_hex(2)

    def damage(saved: SavedCheckpoint) -> CorruptArtefactError | None:
        found: list[ChatSearchError | None] = [None] * dist.get_world_size()
        share = (dist.get_rank(), dist.get_world_size())
        dist.all_gather_object(found, _or_error(lambda: patience.insist(lambda: saved.damage(*share))))
        damaged = [error for error in found if isinstance(error, CorruptArtefactError)]
        _raised([error for error in found if error not in damaged])  # the store's, not the checkpoint's
        return damaged[0] if damaged else None

    box = [_or_error(lambda: patience.insist(look)) if dist.get_rank() == 0 else None]
    dist.broadcast_object_list(box, src=0)
    held, token = _raised(box)[0]
    return checkpoint.first_whole(held, damage), token


class CheckpointWriter:
    """Checkpoints of one run, from all ranks together: every rank builds one and makes the same calls.

    A context manager: on leaving, a checkpoint under way is given time to become whole.
    """

    def __init__(self, root: Folder, *, run: str, token: str, say: Callable[[str], None] = logger.warning) -> None:
        """``say`` takes what people should know of a store that does not answer."""
        self._root, self._run, self._token, self._say = root, run, token, say
        # Its own group: a thread's messages must not come between those of a step.
        self._group = dist.new_group(backend="gloo", timeout=_SAVE_TIMEOUT)
        self._versions = {name: importlib.metadata.version(name) for name in _PACKAGES}
        self._thread: threading.Thread | None = None
        self._saved: SavedCheckpoint | None = None
        self._error: BaseException | None = None
        self._patience = Patience(root.uri, math.inf, say)
        self._given_up: list[Folder] = []
        self.num_failed = 0
        """Checkpoints that were given up."""
        self._num_failed_in_row = 0

    def start(self, step: int, metrics: Mapping[str, float], files: Sequence[TensorFile]) -> None:
        """Begin to write the checkpoint of ``step`` updates from this rank's files; returns at once.

        Call :meth:`wait` before: there is one at a time.
        """
        assert self._thread is None, "a checkpoint is under way"
        self._patience = Patience(self._root.uri, math.inf, self._say)
        self._thread = threading.Thread(
            target=self._run_thread, args=(step, dict(metrics), files), name=f"checkpoint-{step}", daemon=True
        )
        self._thread.start()

    def wait(self) -> SavedCheckpoint | None:
        """Wait until the checkpoint under way is whole; returns it, or None where there is none or the store does not answer.

        Raises:
            UnreachableStoreError: for the tenth time in a row.
            ChatSearchError: a rank could not write its files; the error is the same on every rank.
        """
        try:
            saved = self.finish(0.0)
            self._num_failed_in_row = 0
            return saved
        except UnreachableStoreError as error:
            self._num_failed_in_row += 1
            if self._num_failed_in_row == _MOST_FAILED:
                raise
            self._error = None
            self.num_failed += 1
            if dist.get_rank() == 0:
                self._say(f"a checkpoint could not be saved, training goes on and the next one is tried: {error}")
        return None

    def finish(self, patience_s: float) -> SavedCheckpoint | None:
        """As :meth:`wait`, of the last checkpoint: a store that does not answer is asked for so long.

        Raises:
            UnreachableStoreError: it has not come back.
            ChatSearchError: a rank could not write its files; the error is the same on every rank.
        """
        if self._thread is None:
            return None
        self._patience.end_in(patience_s)
        self._thread.join()
        self._thread = None
        self.raise_failed()
        return self._saved

    def raise_failed(self) -> None:
        """Raise what :meth:`wait` would, if that is known already: no step should be made in vain."""
        if self._error is not None:
            raise self._error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._thread is not None:
            self._patience.end_in(0.0)
            self._thread.join(_PATIENCE_S)
        if self._thread is None or not self._thread.is_alive():
            dist.destroy_process_group(self._group)  # a process may train several times

    def _run_thread(self, step: int, metrics: dict[str, float], files: Sequence[TensorFile]) -> None:
        try:
            self._saved = self._write(step, metrics, files)
        except BaseException as error:  # raised where the main thread waits
            self._error = error

    def _write(self, step: int, metrics: dict[str, float], files: Sequence[TensorFile]) -> SavedCheckpoint:
        target = self._root.child(checkpoint.checkpoint_name(step, self._token))
        self._given_up.append(target)  # until it is whole
        insist = self._patience.insist

        def write() -> dict[str, FileEntry]:
            return {file.name: insist(functools.partial(write_file, target, file)) for file in files}

        written: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(written, _or_error(write), self._group)
        entries = {name: entry for part in _raised(written) for name, entry in part.items()}

        def commit() -> CheckpointManifest:
            return checkpoint.commit(
                target,
                entries,
                run=self._run,
                step=step,
                world_size=dist.get_world_size(),
                metrics=metrics,
                versions=self._versions,
            )

        box = [_or_error(lambda: insist(commit)) if dist.get_rank() == 0 else None]
        dist.broadcast_object_list(box, src=0, group=self._group)
        manifest = _raised(box)[0]
        self._given_up.remove(target)
        if dist.get_rank() == 0 and self._given_up:
            self._say(f"the store answers again, the checkpoint of step {step} is saved")
            self._sweep()
        return SavedCheckpoint(target, manifest)

    def _sweep(self) -> None:
        """Delete what was given up, now that a newer one is whole. Its manifest may have been written: only the answer was lost."""
        try:
            while self._given_up:
                self._given_up[-1].delete(MANIFEST)
                self._given_up[-1].delete_all()
                self._given_up.pop()
        except StorageError as error:
            self._say(f"what was given up is deleted later: {error}")


def _or_error(make: Callable[[], Any]) -> Any:
    """What a call returns or, so that the other ranks hear of it, the error that it raises."""
    try:
        return make()
    except ChatSearchError as error:
        return error
    except Exception as error:
        return StorageError(
            f"The checkpoints cannot be read or written: {type(error).__name__}: {' '.join(str(error).split())[:300]}. Check the store and the "
            "disk, then run the same command again."
        )


def _raised(outcomes: list[Any]) -> list[Any]:
    for outcome in outcomes:
        if isinstance(outcome, ChatSearchError):
            raise outcome
    return outcomes
