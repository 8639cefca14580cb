"""Removing a picture for good: from the live set, the log, every snapshot and version, and this machine's cache.

Deleting hides an item; its features and metadata stay in immutable objects until those are replaced. Forgetting replaces them: every
version that must stay is made anew without the item, committed as one entry, and all older objects are deleted at once.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from chatsearch.errors import InputError
from chatsearch.index.items import ItemTable, read_items
from chatsearch.index.live.compact import BASES, Compaction, build_base
from chatsearch.index.live.log import entry_name
from chatsearch.index.live.pinned import folder_of
from chatsearch.index.live.state import Base, Version
from chatsearch.index.live.writer import GalleryWriter
from chatsearch.index.shard import items_name
from chatsearch.kinds import GALLERY_INDEX
from chatsearch.manifest import MANIFEST, open_artefact
from chatsearch.types import GalleryItem


@dataclass(frozen=True)
class Receipt:
    """What forgetting did."""

    what: str
    """The item id or content hash that was asked for."""
    item_ids: tuple[str, ...]
    """Items that were forgotten, in whatever version they were."""
    content_hashes: tuple[str, ...]
    """Pictures that they showed. Features stay where an item that was not forgotten shows the same picture."""
    removed: tuple[str, ...]
    """Objects that held any of it and are deleted."""
    rebuilt: tuple[str, ...]
    """Versions made anew without it: ``current`` and names of snapshots."""
    remaining: tuple[str, ...]
    """Where it may still be and this gallery has no hand."""


@dataclass
class _Traces:
    """Where the picture is, in all objects that exist."""

    items: set[tuple[str, str]] = field(default_factory=set)
    """Item id and content hash."""
    entries: set[int] = field(default_factory=set)
    bases: set[str] = field(default_factory=set)
    """URIs of index folders."""

    def __bool__(self) -> bool:
        return bool(self.items or self.entries or self.bases)


def forget(writer: GalleryWriter, what: str) -> Receipt:
    """Remove an item, by its id, or all items that show a picture, by its content hash.

    Interrupted, it is run again. Writes wait until it has ended.

    Raises:
        InputError: no object of the gallery knows it.
        ArtefactError: an object is damaged, so that it cannot be told what it holds.
        StorageError: the store failed; run it again.
    """
    with writer.exclusively():
        state = writer.state
        external = {base for base in _bases(state.versions()) if not base.owned}
        traces = _find(writer, what, external)
        if not traces:
            raise InputError(
                f"No version of gallery {writer.log.folder.uri} knows an item id or content hash {what!r}. Check the spelling."
            )
        live = [item.item_id for item in writer.catalogue if matches(item, what)]
        if live:
            traces.entries.add(writer.delete(live))
        rebuilt = _rebuild(writer, what, traces)
        collected = writer.collect(grace_s=0.0)
        left = _find(writer, what, ())
        assert not left, f"{what!r} is still in {left}"
    folder = writer.log.folder
    removed = [folder.path(entry_name(number)) for number in collected.entries if number in traces.entries]
    removed += [folder.path(name) for name in collected.bases if folder.path(f"{name}/index") in traces.bases]
    remaining = [
        f"{folder_of(folder, pinned.uri).uri}: made outside the gallery; make it again without the picture, or delete it"
        for base in sorted(external, key=lambda base: base.index.uri)
        if folder_of(folder, base.index.uri).uri in traces.bases
        for pinned in (base.index, base.features)
    ]
    remaining.append("indices and feature stores that the gallery was made from or took items from")
    remaining.append("document shards, thumbnails and conversations that hold the picture itself")
    remaining.append("memory and file caches of other processes, until they refresh or end")
    return Receipt(
        what,
        tuple(sorted({item_id for item_id, _ in traces.items})),
        tuple(sorted({content_hash for _, content_hash in traces.items})),
        tuple(removed),
        tuple(rebuilt),
        tuple(remaining),
    )


def matches(item: GalleryItem, what: str) -> bool:
    """Whether an item is the one meant, or shows the picture meant."""
    return what in (item.item_id, item.content_hash)


def _find(writer: GalleryWriter, what: str, external: Iterable[Base]) -> _Traces:
    log, traces = writer.log, _Traces()
    for number in log.numbers():
        entry = log.read(number)
        found = {(i.item_id, i.content_hash) for i in entry.batch.items if matches(i, what)} if entry.batch else set()
        traces.items |= found
        if found or what in entry.header.deleted:
            traces.entries.add(number)
    finished = [name for name in log.folder.list(BASES) if name.endswith(f"/index/{MANIFEST}")]
    owned = [log.folder.path(name.removesuffix(f"/{MANIFEST}")) for name in finished]
    for uri in [*owned, *(folder_of(log.folder, base.index.uri).uri for base in external)]:
        index = open_artefact(uri, GALLERY_INDEX)
        for shard in range(index.manifest.counts["shards"]):
            found = _in_table(read_items(index.checked_path(items_name(shard))), what)
            traces.items |= found
            if found:
                traces.bases.add(uri)
    return traces


def _in_table(table: ItemTable, what: str) -> set[tuple[str, str]]:
    return {(item.item_id, item.content_hash) for item in map(table.item, table.rows_with(what))}


def _rebuild(writer: GalleryWriter, what: str, traces: _Traces) -> list[str]:
    """Commit every version that holds a trace anew, all in one entry. Returns their names."""
    folder, state = writer.log.folder, writer.state
    clean: dict[str, Version] = {}
    for name, version in {"current": state.current, **{f"snapshot {n}": v for n, v in state.snapshots.items()}}.items():
        held = {folder_of(folder, base.index.uri).uri for base in _bases([version])}
        if held & traces.bases or traces.entries.intersection(version.numbers()):
            work = Compaction(folder.uri, version, version.lineage.model, version.num_shards, (what,))
            made = build_base(work)
            clean[name] = version.model_copy(update={"base": made.base, "replay": (), "lineage": made.lineage})
    snapshots = {name: clean.get(f"snapshot {name}", version) for name, version in state.snapshots.items()}
    # Also where nothing is rebuilt: what is older than this entry can be deleted.
    writer.commit_state(clean.get("current", state.current), snapshots, reset=True)
    return list(clean)


def _bases(versions: Iterable[Version]) -> list[Base]:
    return [version.base for version in versions if version.base is not None]
