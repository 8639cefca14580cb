"""Deleting what no version needs any more. What is deleted is unreachable already, so a crash half-way loses nothing."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass

from chatsearch.errors import MissingInputError
from chatsearch.index.live.compact import BASES
from chatsearch.index.live.lease import remove_old_leases
from chatsearch.index.live.log import Log
from chatsearch.index.live.state import State
from chatsearch.storage import Folder, is_remote

DEFAULT_GRACE_S = 3600.0
"""A reader that opened or follows a version this old still finds its objects."""


@dataclass(frozen=True)
class Collected:
    """What was deleted."""

    entries: tuple[int, ...]
    bases: tuple[str, ...]


def collect_garbage(log: Log, state: State, number: int, grace_s: float) -> Collected:
    """Delete what no version of the last seconds and no snapshot needs. Only the writer may.

    Args:
        log: the gallery's.
        state: its newest state.
        number: the entry that holds it.
        grace_s: seconds for which replaced versions stay whole.

    Raises:
        StorageError: the store failed; run it again.
    """
    oldest, states = _states_since(log, state, number, time.time() - grace_s)
    versions = [version for each in states for version in each.versions()]
    needed = {entry for version in versions for entry in version.numbers()}
    entries = [entry for entry in log.numbers() if entry < oldest and entry not in needed]
    kept = {
        os.path.dirname(version.base.index.uri)
        for version in versions
        if version.base is not None and version.base.owned
    }
    # A base that was planned at or after the last reset may still be committed.
    bases = [name for name in _bases(log.folder) if name not in kept and _planned_at(name) < state.reset]
    for name in bases:
        _remove_base(log.folder, name)
    for entry in entries:
        log.remove(entry)
    remove_old_leases(log.folder)
    _sweep(log.folder, grace_s)
    return Collected(tuple(entries), tuple(bases))


def _states_since(log: Log, state: State, number: int, since: float) -> tuple[int, list[State]]:
    """The states that held at or after a time, and the entry of the earliest of them."""
    states = [state]
    while state.previous:
        try:
            if log.read(number).header.time <= since:
                break
            earlier = log.read(state.previous).header.state
        except MissingInputError:
            break
        assert earlier is not None, "a state names the state before it"
        number, state = state.previous, earlier
        states.append(state)
    return number, states


def _bases(folder: Folder) -> list[str]:
    return sorted({"/".join(name.split("/")[:2]) for name in folder.list(BASES)})


def _planned_at(base: str) -> int:
    """The version a base was made of."""
    number = base.removeprefix(f"{BASES}/").partition("-")[0]
    return int(number) if number.isdecimal() else 0


def _remove_base(folder: Folder, name: str) -> None:
    for file in folder.list(name):
        folder.drop_cached(file)
    folder.child(name).delete_all()


def _sweep(folder: Folder, grace_s: float) -> None:
    """Remove what a killed process was writing on a local disk."""
    if is_remote(folder.uri):
        return
    for part in ("log", "lease"):
        with os.scandir(os.path.join(folder.uri, part)) as found:
            for file in found:
                if file.name.startswith(".tmp-") and file.stat().st_mtime <= time.time() - grace_s:
                    os.remove(file.path)
