"""Sharded FAISS against the exact NumPy oracle, and what opening an index checks."""

from __future__ import annotations

import itertools
import pickle
import tempfile
from collections.abc import Callable

import numpy as np
import pytest
from chatsearch.errors import (
    ConfigError,
    CorruptArtefactError,
    FingerprintMismatchError,
    IncompleteArtefactError,
    InputError,
)
from chatsearch.index.build import build_index
from chatsearch.index.config import IndexConfig
from chatsearch.index.exact import ExactIndex
from chatsearch.index.gallery import GalleryIndex
from chatsearch.index.merge import merge_batches, merge_hits
from chatsearch.index.shard import IndexShard, index_name, items_name
from chatsearch.types import GalleryItem, Hit
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.unit.index.synthetic import RETRIEVAL_DIM, Gallery, picture_hash, write_bundle, write_store

Make = Callable[..., Gallery]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    seed=st.integers(0, 2**16),
    num_pictures=st.integers(1, 40),
    num_distinct=st.integers(1, 40),
    num_shards=st.integers(1, 4),
    k=st.integers(1, 50),
    num_excluded=st.integers(0, 5),
)
def test_sharded_faiss_equals_the_exact_oracle(
    *, seed: int, num_pictures: int, num_distinct: int, num_shards: int, k: int, num_excluded: int
) -> None:
    """Few distinct vectors make many exact ties, and several items share a picture."""
    rng = np.random.default_rng(seed)
    distinct = rng.normal(size=(num_distinct, 6)).astype(np.float32)
    matrix_ND = distinct[rng.integers(num_distinct, size=num_pictures)]
    weight_dD = rng.normal(size=(4, 6)).astype(np.float32)
    pictures = rng.integers(num_pictures, size=num_pictures + 3)
    items = [GalleryItem(f"é{n}", picture_hash(p), {"p": str(p)}) for n, p in enumerate(pictures)]
    with tempfile.TemporaryDirectory() as base:
        write_store(f"{base}/features", matrix_ND, items)
        write_bundle(f"{base}/model", weight_dD)
        index = GalleryIndex(
            build_index(
                IndexConfig(
                    features=f"{base}/features", model=f"{base}/model", output=f"{base}/index", num_shards=num_shards
                )
            )
        )
    projected = matrix_ND[pictures].astype(np.float64) @ weight_dD.T.astype(np.float64)
    queries_BD = np.concatenate([rng.normal(size=(3, 4)), projected[:2]])
    exclude = [{picture_hash(p) for p in rng.integers(num_pictures, size=num_excluded)} for _ in queries_BD]
    assert index.search(queries_BD, k, exclude) == ExactIndex(items, projected).search(queries_BD, k, exclude)
    index.close()


@pytest.mark.parametrize("num_shards", [1, 3])
def test_ten_thousand_queries_agree_with_the_oracle(make_gallery: Make, num_shards: int) -> None:
    gallery = make_gallery(500, num_twins=100)
    queries_BD = np.random.default_rng(1).normal(size=(10_000, RETRIEVAL_DIM))
    found = GalleryIndex(gallery.index(num_shards)).search(queries_BD, 10)
    expected = ExactIndex(gallery.items, gallery.projected_Nd).search(queries_BD, 10)
    assert found == expected


def test_scores_do_not_depend_on_the_batch(make_gallery: Make) -> None:
    """FAISS computes batches of 20 and more with another routine than single queries."""
    index = GalleryIndex(make_gallery(200).index(2))
    queries_BD = np.random.default_rng(2).normal(size=(64, RETRIEVAL_DIM))
    together = index.search(queries_BD, 7)
    assert together == [index.search(query[None], 7)[0] for query in queries_BD]


def test_a_gallery_of_one_picture_repeated_is_ordered_by_item_id(make_gallery: Make) -> None:
    """All scores tie, so every candidate has to be fetched before the first ones are known."""
    gallery = make_gallery(1)
    items = [GalleryItem(f"item-{n:03d}", picture_hash(0)) for n in range(300)]
    write_store(gallery.features + "-ties", gallery.matrix_ND, items)
    artefact = build_index(gallery.config(3, "ties", features=gallery.features + "-ties"))
    (hits,) = GalleryIndex(artefact).search(np.ones((1, RETRIEVAL_DIM)), 5)
    assert [hit.item_id for hit in hits] == [f"item-{n:03d}" for n in range(5)]
    assert len({hit.score for hit in hits}) == 1


def test_more_than_there_is_gives_all_and_ranks_start_at_one(make_gallery: Make) -> None:
    (hits,) = GalleryIndex(make_gallery(9).index(4)).search(np.ones((1, RETRIEVAL_DIM)), 100)
    assert [hit.rank for hit in hits] == list(range(1, 10))
    assert all(a.score >= b.score for a, b in itertools.pairwise(hits))
    assert {hit.metadata["number"] for hit in hits} == {str(n) for n in range(9)}


def test_excluding_a_picture_removes_every_item_that_shows_it(make_gallery: Make) -> None:
    gallery = make_gallery(4)
    items = [GalleryItem(f"a{n}", picture_hash(n % 2)) for n in range(6)]
    write_store(gallery.features + "-shared", gallery.matrix_ND, items)
    index = GalleryIndex(build_index(gallery.config(2, "shared", features=gallery.features + "-shared")))
    query = np.ones((2, RETRIEVAL_DIM))
    first, second = index.search(query, 6, [{picture_hash(0)}, {picture_hash(0), picture_hash(1)}])
    assert {hit.item_id for hit in first} == {"a1", "a3", "a5"}
    assert second == []


def test_no_queries_give_no_answers(make_gallery: Make) -> None:
    index = GalleryIndex(make_gallery(5).index(2))
    assert index.search(np.empty((0, RETRIEVAL_DIM)), 3) == []


@pytest.mark.parametrize(
    ("queries", "k", "exclude", "names"),
    [
        (np.ones((1, RETRIEVAL_DIM)), 0, (), "k is 0"),
        (np.ones((1, RETRIEVAL_DIM)), True, (), "k is True"),
        (np.ones((1, RETRIEVAL_DIM)), 2.5, (), "k is 2.5"),
        (np.ones((1, RETRIEVAL_DIM)), 10**9, (), "1000000000"),
        (np.ones((1, 3)), 5, (), r"\(1, 3\)"),
        (np.ones(RETRIEVAL_DIM), 5, (), r"\(8,\)"),
        (np.full((2, RETRIEVAL_DIM), np.nan), 5, (), "Query 0 holds nan at position 0"),
        (np.full((1, RETRIEVAL_DIM), np.inf), 5, (), "inf"),
        (np.zeros((1, RETRIEVAL_DIM)), 5, (), "length 0"),
        ([["a"] * RETRIEVAL_DIM], 5, (), "array of numbers"),
        (np.ones((2, RETRIEVAL_DIM)), 5, [set()], "1 exclusion lists for 2 queries"),
        (np.ones((1, RETRIEVAL_DIM)), 5, ["abc"], "the string 'abc'"),
    ],
)
def test_bad_requests_are_named_by_both_searchers(
    make_gallery: Make, queries: np.ndarray, k: int, exclude: object, names: str
) -> None:
    gallery = make_gallery(5)
    for index in (GalleryIndex(gallery.index(2)), ExactIndex(gallery.items, gallery.projected_Nd)):
        with pytest.raises(InputError, match=names):
            index.search(queries, k, exclude)  # type: ignore[arg-type]


def test_shard_results_travel_and_merge_elsewhere(make_gallery: Make) -> None:
    artefact = make_gallery(50).index(3)
    queries_BD = np.random.default_rng(3).normal(size=(4, RETRIEVAL_DIM))
    results = [pickle.loads(pickle.dumps(IndexShard.open(artefact, n).search(queries_BD, 6))) for n in range(3)]  # noqa: S301 -- our own bytes
    merged = merge_batches(results, 6)
    assert merged == GalleryIndex(artefact).search(queries_BD, 6)
    assert merged[0] == merge_hits([result.queries[0] for result in results], 6)


def test_versions_are_never_mixed(make_gallery: Make) -> None:
    queries_BD = np.ones((1, RETRIEVAL_DIM))
    old = IndexShard.open(make_gallery(8, seed=1).index(), 0).search(queries_BD, 3)
    new = IndexShard.open(make_gallery(8, seed=2).index(2), 0).search(queries_BD, 3)
    with pytest.raises(FingerprintMismatchError, match=f"(?s){old.version}|{new.version}"):
        merge_batches([old, new], 3)


def test_merge_orders_by_score_then_id() -> None:
    one = [Hit("b", 0.5, 1, "h1"), Hit("a", 0.1, 2, "h2")]
    two = [Hit("a0", 0.5, 1, "h3")]
    assert [(hit.item_id, hit.rank) for hit in merge_hits([one, two], 3)] == [("a0", 1), ("b", 2), ("a", 3)]
    assert merge_hits([], 3) == []


def test_an_index_of_another_projection_is_refused(make_gallery: Make) -> None:
    gallery = make_gallery(5)
    built = gallery.index()
    ours = built.manifest.facts["mq_fingerprint"]
    assert GalleryIndex.open(built.uri, ours).version == built.fingerprint
    with pytest.raises(FingerprintMismatchError) as caught:
        GalleryIndex.open(built.uri, "f" * 16, model="/models/new")
    message = str(caught.value)
    assert ours in message
    assert "f" * 16 in message
    assert f"python -m jobs.index --set features={gallery.features} --set model=/models/new --set output=" in message


@pytest.mark.parametrize("name", [index_name(1), items_name(1)])
def test_a_damaged_shard_is_refused_before_faiss_reads_it(
    make_gallery: Make, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    artefact = make_gallery(20).index(2)
    path = artefact.folder.path(name)
    with open(path, "r+b") as handle:
        handle.seek(40)
        byte = handle.read(1)
        handle.seek(40)
        handle.write(bytes([byte[0] ^ 1]))
    monkeypatch.setattr("faiss.read_index", lambda *_: pytest.fail("FAISS read a damaged file"))
    with pytest.raises(CorruptArtefactError, match=name):
        IndexShard.open(artefact.uri, 1)


def test_an_unfinished_index_and_a_missing_shard_are_named(make_gallery: Make) -> None:
    artefact = make_gallery(5).index(2)
    with pytest.raises(ConfigError, match="shards 0 to 1; there is no shard 2"):
        IndexShard.open(artefact, 2)
    artefact.folder.delete("manifest.json")
    with pytest.raises(IncompleteArtefactError, match=artefact.uri):
        GalleryIndex.open(artefact.uri)


def test_items_are_found_by_id(make_gallery: Make) -> None:
    gallery = make_gallery(30)
    index = GalleryIndex(gallery.index(4))
    assert [index.item(item.item_id) for item in gallery.items] == gallery.items
    with pytest.raises(InputError, match="'nobody'"):
        index.item("nobody")


def test_an_index_says_what_is_served(make_gallery: Make) -> None:
    gallery = make_gallery(30)
    index = GalleryIndex(gallery.index(2))
    facts, counts = index.artefact.manifest.facts, index.artefact.manifest.counts
    assert (counts["items"], counts["shards"], facts["dimension"]) == (30, 2, RETRIEVAL_DIM)
    assert (facts["features"], facts["model"]) == (gallery.features, gallery.model)
    assert sum(facts["items_per_shard"]) == index.num_items == 30
    assert index.images == ("/data/shards",)
