"""The first entry of a gallery: empty, or over an index that was built already."""

from __future__ import annotations

import time
import uuid

from chatsearch.errors import ConflictingOutputError, FingerprintMismatchError
from chatsearch.index.features import FeatureStore
from chatsearch.index.live.compact import lineage_of
from chatsearch.index.live.entry import Header
from chatsearch.index.live.log import Log
from chatsearch.index.live.pinned import pin
from chatsearch.index.live.state import Base, State, Version
from chatsearch.index.projection import Projection
from chatsearch.index.raw_features import RAW
from chatsearch.kinds import GALLERY_INDEX
from chatsearch.manifest import open_artefact
from chatsearch.storage import Folder


def create_gallery(uri: str, *, index: str | None = None, model: str | None = None, num_shards: int = 1) -> None:
    """Make a gallery that can change.

    Args:
        uri: where it goes.
        index: a gallery index to start from, which stays where it is; None starts empty.
        model: model bundle whose M_Q projects an empty gallery; with an index the index's own unless named.
        num_shards: of an empty gallery, from its first compaction on; with an index the index's own.

    Raises:
        ConflictingOutputError: something is there already.
        FingerprintMismatchError: index, features and model do not belong together.
        ArtefactError: one of them is damaged.
    """
    folder = Folder(uri)
    version = _over_index(index, model) if index else _empty(model or "", num_shards)
    if folder.exists():
        raise ConflictingOutputError(
            f"{folder.uri} is not empty. Open the gallery that is there, or choose another place."
        )
    header = Header(
        gallery=uuid.uuid4().hex,
        number=1,
        previous="",
        fence=0,
        nonce=uuid.uuid4().hex,
        time=time.time(),
        kind="state",
        state=State(current=version, reset=1, previous=0),
    )
    if Log(folder).append(header, None) is None:
        raise ConflictingOutputError(f"{folder.uri} was created by somebody else just now. Open that gallery.")


def _empty(model: str, num_shards: int) -> Version:
    return Version(number=1, base=None, lineage=lineage_of(Projection.open(model)), num_shards=num_shards)


def _over_index(index: str, model: str | None) -> Version:
    artefact = open_artefact(index, GALLERY_INDEX)
    facts = artefact.manifest.facts
    if facts["mq_fingerprint"] == RAW:
        raise FingerprintMismatchError(
            f"Index {artefact.uri} is over raw features, for folded searches; a gallery needs one of its model. Build it: python -m "
            f"jobs.index --set features={facts['features']} --set model=MODEL --set output=NEW_URI"
        )
    projection = Projection.open(model or facts["model"])
    store = FeatureStore.open(facts["features"])
    projection.check(store)
    for what, ours, theirs in (
        ("M_Q", facts["mq_fingerprint"], projection.mq_fingerprint),
        ("features", artefact.manifest.inputs["features"], store.fingerprint),
    ):
        if ours != theirs:
            raise FingerprintMismatchError(
                f"Index {artefact.uri} was built with {what} {ours}; {projection.uri if what == 'M_Q' else store.uri} has {theirs}. "
                f"Build the index again: python -m jobs.index --set features={store.uri} --set model={projection.uri} --set output=NEW_URI"
            )
    return Version(
        number=1,
        base=Base(
            features=pin(store.artefact),
            index=pin(artefact),
            owned=False,
            num_items=artefact.manifest.counts["items"],
        ),
        lineage=lineage_of(projection),
        num_shards=artefact.manifest.counts["shards"],
    )
