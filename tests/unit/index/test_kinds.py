"""Approximate kinds of index against the exact oracle."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
from chatsearch.errors import CorruptArtefactError, InputError
from chatsearch.index.approximate import MIN_ROWS, num_lists, trained
from chatsearch.index.build import build_index
from chatsearch.index.config import IndexConfig
from chatsearch.index.exact import ExactIndex
from chatsearch.index.gallery import GalleryIndex
from chatsearch.index.live.create import create_gallery
from chatsearch.index.live.reader import LiveGallery
from chatsearch.index.live.writer import GalleryWriter
from chatsearch.index.search_parameters import TAKEN, SearchParameters
from chatsearch.index.shard import IndexShard, index_name, vectors_name
from chatsearch.storage import Folder

from tests.unit.index.synthetic import RETRIEVAL_DIM, Gallery, make_gallery

KINDS = [kind for kind in TAKEN if kind != "flat"]
NUM_PICTURES = 1200
WHOLE = {"num_reranked": NUM_PICTURES, "nprobe": 10_000, "ef_search": NUM_PICTURES}


def everything(kind: str) -> SearchParameters:
    return SearchParameters(**{name: WHOLE[name] for name in TAKEN[kind]})


@pytest.fixture(scope="module")
def gallery(tmp_path_factory: pytest.TempPathFactory) -> Gallery:
    return make_gallery(str(tmp_path_factory.mktemp("kinds")), NUM_PICTURES, num_twins=200)


@pytest.fixture(scope="module")
def oracle(gallery: Gallery) -> ExactIndex:
    return ExactIndex(gallery.items, gallery.projected_Nd)


@pytest.fixture(scope="module", params=KINDS)
def index(request: pytest.FixtureRequest, gallery: Gallery) -> GalleryIndex:
    kind: str = request.param
    return GalleryIndex(build_index(gallery.config(3, f"index-{kind}", kind=kind, num_lists=8)))


def kind_of(index: GalleryIndex) -> str:
    kind: str = index.artefact.manifest.facts["kind"]
    return kind


def queries(num: int = 20) -> np.ndarray:
    return np.random.default_rng(1).normal(size=(num, RETRIEVAL_DIM))


def test_every_kind_that_can_be_configured_is_tested() -> None:
    assert {*TAKEN, "auto"} == set(get_args(IndexConfig.model_fields["kind"].annotation))


def test_looking_everywhere_equals_the_oracle(index: GalleryIndex, oracle: ExactIndex) -> None:
    """A graph has no way to look everywhere, but over so few rows it does. Twins tie, so ids decide."""
    parameters = everything(kind_of(index))
    assert index.search(queries(), 10, parameters=parameters) == oracle.search(queries(), 10)


def test_defaults_find_nearly_all(index: GalleryIndex, oracle: ExactIndex) -> None:
    found, wanted = index.search(queries(200), 10), oracle.search(queries(200), 10)
    hits = [len({h.item_id for h in a} & {h.item_id for h in b}) for a, b in zip(found, wanted, strict=True)]
    assert sum(hits) / 2000 >= 0.95
    scores = {hit.item_id: hit.score for hits in wanted for hit in hits}
    assert scores
    for a, b in zip(found, wanted, strict=True):
        exact = {hit.item_id: hit.score for hit in b}
        assert all(hit.score == exact[hit.item_id] for hit in a if hit.item_id in exact), "scores are exact"


@pytest.mark.parametrize("k", [1199, 1200, 5000])
def test_as_many_hits_as_there_are(index: GalleryIndex, oracle: ExactIndex, k: int) -> None:
    nearest = SearchParameters(**dict.fromkeys(TAKEN[kind_of(index)], 1))
    assert index.search(queries(2), k, parameters=nearest) == oracle.search(queries(2), k)


def test_excluded_pictures_and_dead_rows_are_replaced_by_the_next(index: GalleryIndex, oracle: ExactIndex) -> None:
    best = oracle.search(queries(5), 40)
    exclude = [{hit.content_hash for hit in hits[:20]} for hits in best]
    parameters = everything(kind_of(index))
    assert index.search(queries(5), 10, exclude, parameters) == oracle.search(queries(5), 10, exclude)

    shard = IndexShard.open(index.artefact, 1)
    dead_N = np.random.default_rng(2).random(len(shard)) < 0.9
    dead_N[:3] = False
    alive = [shard.items.item(row) for row in np.flatnonzero(~dead_N).tolist()]
    expected = [
        [hit.item_id for hit in hits if hit.item_id in {item.item_id for item in alive}][:10]
        for hits in oracle.search(queries(5), NUM_PICTURES)
    ]
    for asked in (parameters, None):
        found = shard.search(queries(5), 10, (), dead_N, asked).queries
        assert [len(hits) for hits in found] == [10] * 5
        if asked:
            assert [[hit.item_id for hit in hits] for hits in found] == expected
    assert shard.search(queries(5), 10, (), np.ones(len(shard), dtype=np.bool_)).queries == ((),) * 5


def test_parameters_of_another_kind_and_nonsense_are_refused(index: GalleryIndex) -> None:
    kind = kind_of(index)
    for name in {"nprobe", "ef_search"} - set(TAKEN[kind]):
        with pytest.raises(InputError, match=f"{name}=4 is nothing that an index of kind {kind} takes"):
            index.search(queries(1), 5, parameters=SearchParameters(**{name: 4}))
    for value in (0, -3, 2.5, True):
        with pytest.raises(InputError, match=r"num_reranked is .*whole number"):
            index.search(queries(1), 5, parameters=SearchParameters(num_reranked=value))  # type: ignore[arg-type]


def test_an_exact_index_takes_no_parameter(gallery: Gallery) -> None:
    with pytest.raises(InputError, match="it is exact"):
        GalleryIndex(gallery.index(2)).search(queries(1), 5, parameters=SearchParameters(nprobe=3))


def test_requests_side_by_side_do_not_touch_each_other(index: GalleryIndex) -> None:
    before = index.search(queries(), 10)
    index.search(queries(), 10, parameters=replace(everything(kind_of(index)), num_reranked=12))
    assert index.search(queries(), 10) == before


def test_a_small_gallery_is_flat(tmp_path) -> None:
    gallery = make_gallery(str(tmp_path), MIN_ROWS - 1)
    facts = build_index(gallery.config(kind="ivf-pq")).manifest.facts
    assert (facts["kind"], facts["search"]) == ("flat", {})


def test_shards_may_be_empty(tmp_path) -> None:
    """Nearly a shard an item: some get none."""
    gallery = make_gallery(str(tmp_path), MIN_ROWS)
    index = GalleryIndex(build_index(gallery.config(1024, kind="sq8")))
    assert 0 in index.artefact.manifest.facts["items_per_shard"]
    oracle = ExactIndex(gallery.items, gallery.projected_Nd)
    assert index.search(queries(2), 5) == oracle.search(queries(2), 5)


def test_a_damaged_file_of_vectors_is_refused(index: GalleryIndex, tmp_path) -> None:
    kind = kind_of(index)
    names = [index_name(0)] + ([] if kind == "hnsw" else [vectors_name(0)])
    for name in names:
        folder = Folder(index.artefact.uri)
        data = folder.read_bytes(name)
        folder.write_bytes(name, data[:-9] + bytes([data[-9] ^ 1]) + data[-8:])
        with pytest.raises(CorruptArtefactError, match=name):
            IndexShard.open(index.artefact, 0)
        folder.write_bytes(name, data)


def test_lists_grow_with_the_root_and_are_never_nearly_empty() -> None:
    assert [num_lists(n) for n in (0, 40, 1000, 10_000, 1_000_000)] == [1, 1, 25, 250, 4000]


@pytest.mark.parametrize("kind", KINDS)
def test_a_live_gallery_rests_on_any_kind_and_keeps_it(gallery: Gallery, tmp_path, kind: str) -> None:
    index = build_index(gallery.config(2, f"live-{kind}", kind=kind, num_lists=8))
    uri = f"{tmp_path}/live"
    create_gallery(uri, index=index.uri)
    live, gone = LiveGallery.open(uri), [item.item_id for item in gallery.items[:100]]
    left = ExactIndex(gallery.items[100:], gallery.projected_Nd[100:])
    with GalleryWriter.open(uri, "w") as writer:
        writer.delete(gone)
        live.refresh()
        assert live.search(queries(3), 10, parameters=everything(kind)) == left.search(queries(3), 10)
        writer.compact()
        compacted = LiveGallery.open(uri)
        assert {shard.kind for shard in compacted.view.shards.values()} == {kind}
        assert compacted.search(queries(3), 10, parameters=everything(kind)) == left.search(queries(3), 10)
        writer.delete([item.item_id for item in gallery.items[100:400]])
        writer.compact()
        small = LiveGallery.open(uri)
        assert {shard.kind for shard in small.view.shards.values()} == {"flat"}, "too few are left"
        fewer = ExactIndex(gallery.items[400:], gallery.projected_Nd[400:])
        assert small.search(queries(3), 10) == fewer.search(queries(3), 10)
    for reader in (live, compacted, small):
        reader.close()


@pytest.mark.parametrize("kind", ["ivf-pq", "ivf-opq", "ivf-rabitq"])
def test_few_rows_are_trained_with_in_silence(kind: str, capfd: pytest.CaptureFixture[str]) -> None:
    rows = np.random.default_rng(0).standard_normal((1100, 8), dtype=np.float32)
    trained(kind, rows, lists=8)
    assert capfd.readouterr() == ("", "")
