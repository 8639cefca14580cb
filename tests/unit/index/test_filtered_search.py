"""Searches under a filter, and of one hit a picture: exact NumPy, sharded FAISS of every kind and live galleries agree."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from chatsearch.errors import InputError
from chatsearch.index import build
from chatsearch.index import shard as shard_module
from chatsearch.index.build import build_index
from chatsearch.index.exact import ExactIndex
from chatsearch.index.filters import Exists, Filter, Not, OneOf
from chatsearch.index.gallery import GalleryIndex
from chatsearch.index.live.create import create_gallery
from chatsearch.index.live.reader import LiveGallery
from chatsearch.index.live.writer import GalleryWriter
from chatsearch.index.merge import merge_batches
from chatsearch.index.search_parameters import TAKEN, SearchParameters
from chatsearch.index.shard import IndexShard
from chatsearch.types import GalleryItem
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.unit.index.filtering import FIELDS, TEXTS, filters
from tests.unit.index.live.galleries import features
from tests.unit.index.synthetic import (
    FEATURE_DIM,
    RETRIEVAL_DIM,
    Gallery,
    make_gallery,
    picture_hash,
    write_bundle,
    write_store,
)

NUM_PICTURES = 1100
NUM_ITEMS = 1400
WHOLE = {"num_reranked": NUM_ITEMS, "nprobe": 10_000, "ef_search": NUM_ITEMS}


def random_metadata(rng: np.random.Generator) -> dict[str, str]:
    return {field: TEXTS[rng.integers(len(TEXTS))] for field in FIELDS if rng.random() < 0.7}


def filtered_gallery(base: str, num_pictures: int, num_items: int, seed: int, num_distinct: int) -> Gallery:
    """Items with random metadata; many share a picture, and pictures tie."""
    rng = np.random.default_rng(seed)
    matrix_ND = rng.normal(size=(num_distinct, FEATURE_DIM)).astype(np.float32)
    matrix_ND = matrix_ND[rng.integers(num_distinct, size=num_pictures)]
    weight_dD = rng.normal(size=(RETRIEVAL_DIM, FEATURE_DIM)).astype(np.float32)
    pictures = [*range(num_pictures), *rng.integers(min(num_pictures, 60), size=num_items - num_pictures).tolist()]
    items = [
        GalleryItem(f"é{n:04d}", picture_hash(p), {"number": str(p % 50), **random_metadata(rng)})
        for n, p in enumerate(pictures)
    ]
    gallery = Gallery(base, matrix_ND, weight_dD, items)
    write_store(gallery.features, matrix_ND, items)
    write_bundle(gallery.model, weight_dD)
    return gallery


@pytest.fixture(scope="module")
def gallery(tmp_path_factory: pytest.TempPathFactory) -> Gallery:
    return filtered_gallery(str(tmp_path_factory.mktemp("filtered")), NUM_PICTURES, NUM_ITEMS, 0, 900)


@pytest.fixture(scope="module")
def oracle(gallery: Gallery) -> ExactIndex:
    return ExactIndex(gallery.items, gallery.projected_Nd)


@pytest.fixture(scope="module", params=list(TAKEN))
def index(request: pytest.FixtureRequest, gallery: Gallery) -> Iterator[GalleryIndex]:
    kind: str = request.param
    index = GalleryIndex(build_index(gallery.config(3, f"index-{kind}", kind=kind, num_lists=8)))
    yield index
    index.close()


def everything(index: GalleryIndex) -> SearchParameters:
    kind: str = index.artefact.manifest.facts["kind"]
    return SearchParameters(**{name: WHOLE[name] for name in TAKEN[kind]})


def queries(num: int = 3, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(num, RETRIEVAL_DIM))


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    seed=st.integers(0, 2**16),
    num_pictures=st.integers(1, 30),
    num_distinct=st.integers(1, 30),
    num_shards=st.integers(1, 3),
    requests=st.lists(
        st.tuples(st.integers(1, 50), filters(), st.booleans(), st.integers(0, 5)), min_size=1, max_size=6
    ),
)
def test_sharded_faiss_equals_the_oracle_over_small_galleries(
    *,
    seed: int,
    num_pictures: int,
    num_distinct: int,
    num_shards: int,
    requests: list[tuple[int, Filter, bool, int]],
) -> None:
    rng = np.random.default_rng(seed)
    with tempfile.TemporaryDirectory() as base:
        gallery = filtered_gallery(base, num_pictures, 2 * num_pictures, seed, num_distinct)
        index = GalleryIndex(gallery.index(num_shards))
    oracle = ExactIndex(gallery.items, gallery.projected_Nd)
    for k, filter, unique, num_excluded in requests:
        exclude = [{picture_hash(p) for p in rng.integers(num_pictures, size=num_excluded)} for _ in range(3)]
        if not filter.fields() <= index.fields:
            for searcher in (index, oracle):
                with pytest.raises(InputError, match="Unknown metadata field"):
                    searcher.search(queries(), k, exclude, filter=filter, unique=unique)
            continue
        found = index.search(queries(), k, exclude, filter=filter, unique=unique)
        assert found == oracle.search(queries(), k, exclude, filter=filter, unique=unique)
    index.close()


@pytest.mark.parametrize("scanned", [0, shard_module.SCANNED_NUMBERS])
def test_every_kind_looked_through_whole_equals_the_oracle(
    index: GalleryIndex, oracle: ExactIndex, scanned: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows that a filter leaves are scored alone where they are few; with 0, FAISS selects them however few they are."""
    monkeypatch.setattr(shard_module, "SCANNED_NUMBERS", scanned)

    @settings(max_examples=30, deadline=None)
    @given(
        filter=filters(), k=st.sampled_from([1, 10, 300, NUM_ITEMS + 1]), unique=st.booleans(), seed=st.integers(0, 9)
    )
    def agree(filter: Filter, k: int, unique: bool, seed: int) -> None:
        best = oracle.search(queries(seed=seed), 20)
        exclude = [{hit.content_hash for hit in hits[::2]} for hits in best]
        found = index.search(queries(seed=seed), k, exclude, everything(index), filter=filter, unique=unique)
        assert found == oracle.search(queries(seed=seed), k, exclude, filter=filter, unique=unique)

    agree()


@pytest.mark.parametrize("scanned", [0, shard_module.SCANNED_NUMBERS])
def test_as_many_hits_as_there_are_however_short_the_look(
    index: GalleryIndex, oracle: ExactIndex, scanned: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shard_module, "SCANNED_NUMBERS", scanned)
    kind: str = index.artefact.manifest.facts["kind"]
    nearest = SearchParameters(**dict.fromkeys(TAKEN[kind], 1))
    few = OneOf("number", ("7",))
    for filter in (few, Not(few), OneOf("source", ("coco", "flickr"))):
        for k in (10, 200, 2000):
            found = index.search(queries(), k, (), nearest, filter=filter, unique=True)
            for hits, wanted in zip(found, oracle.search(queries(), k, filter=filter, unique=True), strict=True):
                assert len(hits) == len(wanted) == len({hit.content_hash for hit in hits})
                assert all(filter.matches(hit.metadata) for hit in hits)


def test_dead_rows_stay_dead_under_a_filter(index: GalleryIndex, gallery: Gallery) -> None:
    shard = IndexShard.open(index.artefact, 1)
    row_of = {item.item_id: row for row, item in enumerate(gallery.items)}
    for share in (0.0, 0.3, 0.95):
        dead_N = np.random.default_rng(5).random(len(shard)) < share
        alive = [item for row, item in enumerate(shard.items) if not dead_N[row]]
        rows = [row_of[item.item_id] for item in alive]
        left = ExactIndex(alive, gallery.projected_Nd[rows])
        for filter in (None, OneOf("number", ("7", "8", "9")), Exists("year")):
            for unique in (False, True):
                asked: dict[str, Any] = {"filter": filter, "unique": unique}
                found = shard.search(queries(), 12, (), dead_N, everything(index), **asked)
                assert list(map(list, found.queries)) == left.search(queries(), 12, **asked)
    everyone = np.ones(len(shard), np.bool_)
    assert shard.search(queries(), 5, (), everyone, filter=Exists("year"), unique=True).queries == ((),) * 3


def test_matches_far_from_the_query_are_found(tmp_path) -> None:
    """Half of the gallery matches, and all of it lies farther from the query than the rest."""
    gallery = make_gallery(str(tmp_path), 600)
    sides = np.where(gallery.projected_Nd[:, 0] > 0, "near", "far")
    items = [replace(item, metadata={"side": str(side)}) for item, side in zip(gallery.items, sides, strict=True)]
    write_store(f"{gallery.base}/sided", gallery.matrix_ND, items)
    index = GalleryIndex(build_index(gallery.config(2, features=f"{gallery.base}/sided")))
    query_BD = np.eye(1, RETRIEVAL_DIM)
    oracle = ExactIndex(items, gallery.projected_Nd)
    for side in ("near", "far"):
        asked = OneOf("side", (side,))
        assert index.search(query_BD, 10, filter=asked) == oracle.search(query_BD, 10, filter=asked)


def test_one_hit_a_picture_is_its_best_item_and_of_equal_ones_the_first_by_id(oracle: ExactIndex) -> None:
    for every, unique in zip(
        oracle.search(queries(), NUM_ITEMS), oracle.search(queries(), NUM_ITEMS, unique=True), strict=True
    ):
        assert len(every) == NUM_ITEMS
        assert len(unique) == NUM_PICTURES
        first: dict[str, str] = {}
        for hit in every:
            first.setdefault(hit.content_hash, hit.item_id)
        assert [hit.item_id for hit in unique] == list(first.values())
        assert [hit.rank for hit in unique] == list(range(1, NUM_PICTURES + 1))


def test_shard_results_of_one_request_merge_elsewhere(index: GalleryIndex) -> None:
    """A field that one shard's items lack altogether finds nothing there, which is no error."""
    asked: dict[str, Any] = {"filter": Exists("year"), "unique": True}
    shards = [IndexShard.open(index.artefact, n) for n in range(3)]
    results = [shard.search(queries(), 40, parameters=everything(index), **asked) for shard in shards]
    assert merge_batches(results, 40, unique=True) == index.search(queries(), 40, (), everything(index), **asked)
    assert shards[0].search(queries(), 40, filter=Exists("nowhere")).queries == ((),) * 3


def test_a_request_leaves_nothing_behind(index: GalleryIndex) -> None:
    """What a shard remembers of filters is not seen: side by side, and again, answers are the same."""
    asked = [OneOf("number", (str(n),)) for n in range(40)]
    before = [index.search(queries(), 5, filter=filter) for filter in asked]
    unfiltered = index.search(queries(), 5)
    with ThreadPoolExecutor(4) as pool:
        again = list(pool.map(lambda filter: index.search(queries(), 5, filter=filter), asked * 2))
    assert again == before * 2
    assert index.search(queries(), 5) == unfiltered


def test_unknown_fields_and_other_nonsense_are_named(index: GalleryIndex, oracle: ExactIndex) -> None:
    for searcher in (index, oracle):
        with pytest.raises(InputError, match=r"Unknown metadata field 'sorce'\. Did you mean 'source'"):
            searcher.search(queries(), 5, filter=Not(Exists("sorce")))
        with pytest.raises(InputError, match="of type dict"):
            searcher.search(queries(), 5, filter={"field": "source", "exists": True})  # type: ignore[arg-type]
        assert searcher.search(queries(), 5, filter=OneOf("source", ("nobody has this",))) == [[]] * 3


def test_fields_that_the_manifest_does_not_hold_are_read_from_the_tables(
    gallery: Gallery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "MAX_RECORDED_FIELDS", 3)
    artefact = build_index(gallery.config(2, "unrecorded"))
    assert artefact.manifest.facts["fields"] is None
    assert GalleryIndex(artefact).fields == {"number", *FIELDS}
    facts = {name: fact for name, fact in artefact.manifest.facts.items() if name != "fields"}
    older = replace(artefact, manifest=artefact.manifest.model_copy(update={"facts": facts}))
    assert GalleryIndex(older).fields == {"number", *FIELDS}


@pytest.mark.parametrize("kind", list(TAKEN))
def test_a_live_gallery_equals_the_oracle(gallery: Gallery, tmp_path, kind: str) -> None:
    """Over a base with deleted and replaced items, and a segment whose items partly share the base's pictures."""
    index = build_index(gallery.config(2, f"live-{kind}", kind=kind, num_lists=8))
    uri = f"{tmp_path}/live"
    create_gallery(uri, index=index.uri)
    rng = np.random.default_rng(3)
    numbers = [int(n) for n in rng.integers(2000, 2040, size=60)]
    new = [
        GalleryItem(f"new{n % 50}", picture_hash(number), {"mood": str(n % 3), **random_metadata(rng)})
        for n, number in enumerate(numbers[:50])
    ]
    replacing = [
        GalleryItem(gallery.items[n].item_id, picture_hash(number), {"mood": "4"})
        for n, number in enumerate(numbers[50:])
    ]
    gone = [item.item_id for item in gallery.items[100:200]]
    added = features(numbers)
    with GalleryWriter.open(uri, "w") as writer:
        writer.write([*new, *replacing], added, gone)
    projected_Nd = added.cls_ND.astype(np.float64) @ gallery.weight_dD.T.astype(np.float64)
    kept = [n for n in range(10, NUM_ITEMS) if not 100 <= n < 200]
    oracle = ExactIndex(
        [*(gallery.items[n] for n in kept), *new, *replacing],
        np.concatenate([gallery.projected_Nd[kept], projected_Nd]),
    )
    parameters = SearchParameters(**{name: WHOLE[name] for name in TAKEN[kind]})
    live = LiveGallery.open(uri)

    @settings(max_examples=25, deadline=None)
    @given(
        filter=st.one_of(filters(), st.sampled_from([OneOf("mood", ("1", "4")), Not(Exists("mood"))])),
        k=st.sampled_from([1, 15, 3000]),
        unique=st.booleans(),
    )
    def agree(filter: Filter, k: int, unique: bool) -> None:
        exclude = [{picture_hash(n), picture_hash(2001)} for n in range(3)]
        found = live.search(queries(), k, exclude, parameters, filter=filter, unique=unique)
        assert found == oracle.search(queries(), k, exclude, filter=filter, unique=unique)

    agree()
    live.close()


def test_readers_of_some_shards_know_the_fields_of_all(gallery: Gallery, tmp_path) -> None:
    index = build_index(gallery.config(2, "live-readers"))
    uri = f"{tmp_path}/live"
    create_gallery(uri, index=index.uri)
    readers = [LiveGallery.open(uri, shards=[n]) for n in range(2)]
    whole = LiveGallery.open(uri)
    for reader in (*readers, whole):
        with pytest.raises(InputError, match="Unknown metadata field 'mood'"):
            reader.search(queries(), 5, filter=Exists("mood"))
        with pytest.raises(InputError, match="of type str"):
            reader.search(queries(), 5, filter="mood")  # type: ignore[arg-type]
    with GalleryWriter.open(uri, "w") as writer:
        version = writer.upsert([GalleryItem("one", picture_hash(1), {"mood": "calm"})], features([1]))
        late = [LiveGallery.open(uri, shards=[n]) for n in range(2)]
        whole.refresh()
        for parts in (readers, late):
            asked: dict[str, Any] = {"filter": Exists("mood"), "unique": True}
            answers = [reader.shard_hits(queries(), 5, at=version, **asked) for reader in parts]
            assert merge_batches(answers, 5, unique=True) == whole.search(queries(), 5, **asked)
            assert [hit.item_id for hit in whole.search(queries(), 5, **asked)[0]] == ["one"]
        writer.compact()
        for reader in (*readers, whole):
            reader.refresh()
            assert reader.search(queries(), 5, filter=OneOf("mood", ("wild",))) == [[]] * 3
    for reader in (*readers, *late, whole):
        reader.close()
