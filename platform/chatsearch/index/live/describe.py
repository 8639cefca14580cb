"""What a live gallery is, for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from chatsearch.index.live.compact import live_catalogue
from chatsearch.index.live.log import Log
from chatsearch.storage import Folder


@dataclass(frozen=True)
class Description:
    """The newest version of a gallery."""

    lines: Sequence[str]
    counts: Mapping[str, int]


def describe(uri: str) -> Description:
    """Version, live items, projection, base, log and snapshots. Reads the item tables.

    Raises:
        ArtefactError: there is no gallery, or something that is read is damaged.
    """
    log = Log(Folder(uri))
    history = log.history()
    version, base = history.version, history.version.base
    num_items, held = len(live_catalogue(log, version)), base.num_items if base else 0
    num_entries = sum(1 for _ in version.numbers())
    lines = [
        f"version {version.number}, {num_items} items, M_Q {version.lineage.mq_fingerprint} of {version.lineage.model}",
        f"base of {held} items in {version.num_shards} shards, {num_entries} entries over it",
        *(f"snapshot {name}: version {kept.number}" for name, kept in sorted(history.state.snapshots.items())),
    ]
    return Description(lines, {"version": version.number, "items": num_items, "base_items": held})
