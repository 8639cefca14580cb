"""What a gallery is at one version: a base, the batches to apply over it, the projection, and the named snapshots."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import BaseModel, ConfigDict


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class Pinned(_Record):
    """An artefact and the sha256 of its manifest, from which the checksums of all its files follow."""

    uri: str
    """Absolute, or relative to the gallery's folder."""
    fingerprint: str
    manifest_sha256: str


class Base(_Record):
    """The artefacts that hold most of the gallery."""

    features: Pinned
    index: Pinned
    owned: bool
    """Whether the gallery made it: only such a base is ever deleted."""
    num_items: int


class Lineage(_Record):
    """Which model projects the gallery's raw features, and which encoder made them."""

    model: str
    model_fingerprint: str
    mq_fingerprint: str
    encoder_fingerprint: str
    preprocessing_id: str
    feature_dimension: int
    """Width of f_CLS."""
    dimension: int
    """Width of a query."""


class Version(_Record):
    """All it takes to make one version again."""

    number: int
    base: Base | None
    """None where nothing has been compacted yet, or no item was left when it was."""
    replay: tuple[tuple[int, int], ...] = ()
    """Ranges of entries, both ends included, whose batches apply over the base in this order."""
    lineage: Lineage
    num_shards: int

    def numbers(self) -> Iterator[int]:
        """Every entry to apply, in order."""
        for first, last in self.replay:
            yield from range(first, last + 1)

    def after(self, number: int) -> Version:
        """The version that one more entry makes, whose batch, if it holds one, applies over this."""
        replay = self.replay
        if replay and replay[-1][1] == number - 1:
            replay = (*replay[:-1], (replay[-1][0], number))
        else:
            replay = (*replay, (number, number))
        return self.model_copy(update={"number": number, "replay": replay})


class State(_Record):
    """What a ``state`` entry holds."""

    current: Version
    snapshots: dict[str, Version] = {}
    reset: int
    """The entry that last changed what the current version rests on: a compaction started before it is void."""
    moved: bool = False
    """Whether this entry changed only where the items lie, so that readers may take their time to open the new base."""
    previous: int
    """The entry that holds the state before; 0 in the first."""

    def versions(self) -> Iterator[Version]:
        """The current version and every snapshot."""
        yield self.current
        yield from self.snapshots.values()
