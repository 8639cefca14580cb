"""A live gallery against a dictionary and the exact oracle, over random histories."""

from __future__ import annotations

import os
import shutil
import tempfile

import numpy as np
import pytest
from chatsearch.errors import GalleryError, InputError
from chatsearch.index.filters import AnyOf, Between, OneOf
from chatsearch.index.live.compact import Compacted, build_base
from chatsearch.index.live.forget import forget
from chatsearch.index.live.reader import LiveGallery
from chatsearch.index.live.writer import GalleryWriter
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.unit.index.live.galleries import empty_gallery, expected, features, item
from tests.unit.index.synthetic import RETRIEVAL_DIM, picture_hash

IDS = st.sampled_from([f"é{n}" for n in range(12)])
NUMBERS = st.integers(0, 9)
FILTER = AnyOf((OneOf("number", ("2", "3", "9")), Between("number", above=4, at_most=7)))
CHANGES = st.dictionaries(IDS, NUMBERS, min_size=1, max_size=5)


class GalleryMachine(RuleBasedStateMachine):
    """Random additions, deletions, compactions, snapshots, rollbacks and crashes, compared after every step."""

    @initialize(num_shards=st.integers(1, 3))
    def create(self, num_shards: int) -> None:
        self.base = tempfile.mkdtemp()
        self.uri = empty_gallery(self.base, num_shards)
        self.writer = GalleryWriter.open(self.uri, "machine")
        self.reader = LiveGallery.open(self.uri)
        self.sleepy = LiveGallery.open(self.uri)
        self.live: dict[str, int] = {}
        self.snapshots: dict[str, dict[str, int]] = {}
        self.made: Compacted | None = None
        self.made_void = False
        self.rng = np.random.default_rng(0)

    @rule(changes=CHANGES, deleted=st.sets(IDS, max_size=3))
    def upsert(self, changes: dict[str, int], deleted: set[str]) -> None:
        deleted -= set(changes)
        self.writer.write([item(i, n) for i, n in changes.items()], features(list(changes.values())), sorted(deleted))
        self.live = {i: n for i, n in self.live.items() if i not in deleted} | changes

    @rule(changes=CHANGES)
    def add(self, changes: dict[str, int]) -> None:
        items = [item(i, n) for i, n in changes.items()]
        if changes.keys() & self.live.keys():
            with pytest.raises(GalleryError, match="is in gallery"):
                self.writer.add(items, features(list(changes.values())))
        else:
            self.writer.add(items, features(list(changes.values())))
            self.live |= changes

    @rule(deleted=st.sets(IDS, min_size=1, max_size=6))
    def delete(self, deleted: set[str]) -> None:
        self.writer.delete(sorted(deleted))
        self.live = {i: n for i, n in self.live.items() if i not in deleted}

    @rule(num_shards=st.one_of(st.none(), st.integers(1, 3)))
    def compact(self, num_shards: int | None) -> None:
        self.writer.compact(num_shards=num_shards)
        self.made_void = True

    @precondition(lambda self: self.made is None)
    @rule(num_shards=st.integers(1, 3))
    def build_in_background(self, num_shards: int) -> None:
        self.made, self.made_void = build_base(self.writer.plan_compaction(num_shards=num_shards)), False

    @precondition(lambda self: self.made is not None and not self.made_void)
    @rule()
    def commit_what_was_built(self) -> None:
        self.writer.commit_compaction(self.made)
        self.made = None

    @precondition(lambda self: self.made_void)
    @rule()
    def a_void_base_is_refused(self) -> None:
        if self.made is not None:
            with pytest.raises(Exception, match="is void"):
                self.writer.commit_compaction(self.made)
        self.made, self.made_void = None, False

    @rule(name=st.sampled_from(["a", "b"]))
    def snapshot(self, name: str) -> None:
        if name in self.snapshots:
            self.writer.drop_snapshot(name)
        self.writer.snapshot(name)
        self.snapshots[name] = dict(self.live)

    @precondition(lambda self: bool(self.snapshots))
    @rule(data=st.data())
    def rollback(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.snapshots)))
        self.writer.rollback(name)
        self.live = dict(self.snapshots[name])
        self.made_void = True

    @rule(grace_s=st.sampled_from([0.0, 3600.0]))
    def collect(self, grace_s: float) -> None:
        self.writer.collect(grace_s)

    @rule(what=st.one_of(IDS, NUMBERS.map(picture_hash)))
    def forget(self, what: str) -> None:
        everywhere = [self.live, *self.snapshots.values()]

        def others(held: dict[str, int]) -> dict[str, int]:
            return {i: n for i, n in held.items() if what not in (i, picture_hash(n))}

        try:
            receipt = forget(self.writer, what)
        except InputError:
            assert all(others(held) == held for held in everywhere)
            return
        self.made_void = True
        gone = {i for held in everywhere for i in held.keys() - others(held).keys()}
        assert gone <= set(receipt.item_ids)
        self.live = others(self.live)
        self.snapshots = {name: others(held) for name, held in self.snapshots.items()}

    @rule()
    def restart(self) -> None:
        self.writer.close()
        self.writer = GalleryWriter.open(self.uri, "machine, started anew")
        self.reader.close()
        self.reader = LiveGallery.open(self.uri)

    @rule()
    def wake_the_sleeper(self) -> None:
        for _ in range(2):  # first what is left of the log behind it, then what the list says
            self.sleepy._next_listing = 0.0
            self.sleepy.refresh()
        assert self.sleepy.version == self.writer.version

    @invariant()
    def the_reader_finds_exactly_what_is_live(self) -> None:
        if not hasattr(self, "reader"):
            return
        self.reader._next_listing = 0.0
        assert self.reader.refresh() == self.writer.version
        assert self.reader.num_items == self.writer.num_items == len(self.live)
        queries_BD = self.rng.normal(size=(2, RETRIEVAL_DIM))
        exclude = [{picture_hash(3)}, set()]
        for k in (1, 4, 30):
            assert self.reader.search(queries_BD, k, exclude) == expected(self.live, queries_BD, k, exclude)
            if self.live:
                asked = {"filter": FILTER, "unique": k > 1}
                assert self.reader.search(queries_BD, k, exclude, **asked) == expected(
                    self.live, queries_BD, k, exclude, **asked
                )

    def teardown(self) -> None:
        if hasattr(self, "writer"):
            for gallery in (self.writer, self.reader, self.sleepy):
                gallery.close()
            shutil.rmtree(self.base)


GalleryMachine.TestCase.settings = settings(
    max_examples=int(os.environ.get("GALLERY_HISTORIES", "30")),
    stateful_step_count=25,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
TestRandomHistories = GalleryMachine.TestCase
