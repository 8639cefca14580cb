"""``kind=auto``: budgets are kept or refused by name, what was measured can be measured again, and nothing is chosen twice."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chatsearch.errors import ConfigError, FingerprintMismatchError, InputError
from chatsearch.index.approximate import MIN_ROWS
from chatsearch.index.auto import MIN_QUERIES, Measured, as_chosen, choose
from chatsearch.index.build import build_index
from chatsearch.index.config import IndexConfig
from chatsearch.index.gallery import GalleryIndex
from chatsearch.index.kind_bytes import index_bytes
from chatsearch.index.live.create import create_gallery
from chatsearch.index.live.pinned import open_pinned
from chatsearch.index.live.reader import LiveGallery
from chatsearch.index.live.writer import GalleryWriter
from chatsearch.index.projection import Projection
from chatsearch.index.query_vectors import QueryVectors
from chatsearch.index.search_parameters import TAKEN
from chatsearch.index.shard import index_name
from chatsearch.index.trial import K
from chatsearch.kinds import GALLERY_INDEX
from chatsearch.manifest import Artefact
from chatsearch.storage import Folder
from pydantic import ValidationError

from tests.unit.index.synthetic import RETRIEVAL_DIM, Gallery, make_gallery, write_queries
from tests.unit.index.test_build import contents

NUM_PICTURES = 2400
NUM_QUERIES = 2 * MIN_QUERIES + 60


def ticks() -> Callable[[], float]:
    """A clock by which every search takes a millisecond: what is chosen then depends on recalls and bytes alone."""
    return map(float, itertools.count(0, 0.001)).__next__


@pytest.fixture(scope="module")
def gallery(tmp_path_factory: pytest.TempPathFactory) -> Gallery:
    made = make_gallery(str(tmp_path_factory.mktemp("auto")), NUM_PICTURES, num_twins=300)
    asked = np.random.default_rng(1).normal(size=(NUM_QUERIES, RETRIEVAL_DIM))
    write_queries(f"{made.base}/queries", asked, Projection.open(made.model))
    return made


def config(gallery: Gallery, name: str, num_shards: int = 1, **changes: Any) -> IndexConfig:
    return gallery.config(num_shards, name, kind="auto", queries=f"{gallery.base}/queries", **changes)


@pytest.fixture(scope="module")
def built(gallery: Gallery) -> Artefact:
    return build_index(config(gallery, "built"), clock=ticks())


def curve_of(index: Artefact) -> list[Measured]:
    return [Measured(**point) for point in index.manifest.facts["tuning"]["curve"]]


def chosen_point(index: Artefact) -> Measured:
    facts = index.manifest.facts
    (point,) = (p for p in curve_of(index) if (p.kind, p.search) == (facts["kind"], facts["search"]))
    return point


def tuning_recall(index: Artefact, gallery: Gallery) -> float:
    """Of a finished index with its defaults, ties with the last of the best counting."""
    queries_Qd = QueryVectors.open(f"{gallery.base}/queries").vectors("tuning")
    exact = GalleryIndex(gallery.index(1)).search(queries_Qd, K)
    found = GalleryIndex(index).search(queries_Qd, K)
    return float(np.mean([[hit.score >= b[-1].score for hit in a] for a, b in zip(found, exact, strict=True)]))


@pytest.mark.parametrize("kind", TAKEN)
@pytest.mark.parametrize("num_shards", [1, 3])
def test_bytes_are_known_before_anything_is_built(gallery: Gallery, kind: str, num_shards: int) -> None:
    lists = 16
    index = build_index(gallery.config(num_shards, f"bytes-{kind}-{num_shards}", kind=kind, num_lists=lists))
    manifest = index.manifest
    written = sum(manifest.files[index_name(shard)].num_bytes for shard in range(num_shards))
    told = index_bytes(kind, manifest.facts["items_per_shard"], RETRIEVAL_DIM, lists)
    assert told == (pytest.approx(written, rel=0.01) if kind == "hnsw" else written)


def test_the_smallest_of_equally_fast_ones_that_finds_enough(built: Artefact) -> None:
    point = chosen_point(built)
    enough = [p for p in curve_of(built) if p.recall_low >= 0.95]
    assert point.num_bytes == min(p.num_bytes for p in enough)
    assert point.recall >= point.recall_low >= 0.95
    assert (point.p50_ms, point.p95_ms) == (pytest.approx(1.0), pytest.approx(1.0))
    assert {p.kind for p in curve_of(built)} == set(TAKEN)
    assert built.manifest.facts["tuning"]["left_out"] == {}


def test_what_was_measured_can_be_measured_again(built: Artefact, gallery: Gallery) -> None:
    assert tuning_recall(built, gallery) == pytest.approx(chosen_point(built).recall, abs=1e-9)
    facts = built.manifest.facts["tuning"]
    held = QueryVectors.open(f"{gallery.base}/queries")
    assert facts["num_queries"] == len(held.vectors("tuning"))
    assert (facts["queries_fingerprint"], built.manifest.inputs["queries"]) == (held.fingerprint, held.fingerprint)
    assert facts["rows"] == facts["rows_per_shard"] == NUM_PICTURES


def test_the_curve_shows_less_recall_for_a_shorter_look(built: Artefact) -> None:
    shortest = [p for p in curve_of(built) if p.search == {"nprobe": 1, "num_reranked": 400}]
    assert [p.kind for p in shortest] == ["ivf-pq", "ivf-opq", "ivf-rabitq"]
    for short in shortest:
        longer = [p for p in curve_of(built) if p.kind == short.kind and p.search["num_reranked"] == 400]
        assert max(longer, key=lambda p: p.search["nprobe"]).recall > short.recall


def test_max_bytes_leaves_out_what_is_larger(gallery: Gallery) -> None:
    sizes = {kind: index_bytes(kind, [NUM_PICTURES], RETRIEVAL_DIM, 60) for kind in TAKEN}
    index = build_index(config(gallery, "small", max_bytes=sizes["sq8"]), clock=ticks())
    facts = index.manifest.facts
    assert {"flat", "hnsw"} <= set(facts["tuning"]["left_out"])
    assert not {point.kind for point in curve_of(index)} & set(facts["tuning"]["left_out"])
    assert index.manifest.files[index_name(0)].num_bytes < sizes["flat"]


def test_a_recall_of_one_leaves_nothing_out(gallery: Gallery) -> None:
    small = index_bytes(
        "ivf-rabitq", [NUM_PICTURES], RETRIEVAL_DIM, 60
    )  # hnsw is larger; its links depend on how threads take turns
    index = build_index(config(gallery, "everything", min_recall=1.0, max_bytes=small), clock=ticks())
    assert chosen_point(index).recall == 1.0
    assert tuning_recall(index, gallery) == 1.0


def test_what_no_kind_keeps_is_refused_by_each_budget(gallery: Gallery) -> None:
    small = index_bytes("sq8", [NUM_PICTURES], RETRIEVAL_DIM, 60)
    with pytest.raises(ConfigError) as refused:
        build_index(config(gallery, "relaxed", max_bytes=small, p95_ms=0.5, min_recall=0.9), clock=ticks())
    said = str(refused.value)
    for what in (f"max_bytes={small}", "p95_ms=0.5", "min_recall=0.9", "sq8", "not flat", "1 ms", "Relax p95_ms to 1"):
        assert what in said, said
    again = build_index(config(gallery, "relaxed", max_bytes=small, p95_ms=1.5, min_recall=0.9), clock=ticks())
    assert chosen_point(again).p95_ms <= 1.5, "the place was left free for what was relaxed"


def test_a_limit_below_every_kind_names_the_smallest(gallery: Gallery) -> None:
    small = index_bytes("sq8", [NUM_PICTURES], RETRIEVAL_DIM, 60)
    few = [kind for kind in TAKEN if index_bytes(kind, [NUM_PICTURES], RETRIEVAL_DIM, 60) <= small]
    with pytest.raises(ConfigError, match=r"max_bytes=1 allows no kind .*Raise max_bytes") as refused:
        build_index(config(gallery, "never", max_bytes=1), clock=ticks())
    assert str(min(index_bytes(kind, [NUM_PICTURES], RETRIEVAL_DIM, 60) for kind in few)) in str(refused.value)


def test_the_same_clock_gives_the_same_index(gallery: Gallery) -> None:
    small = index_bytes("ivf-pq", [NUM_PICTURES], RETRIEVAL_DIM, 60)
    made = [build_index(config(gallery, name, 2, max_bytes=small), clock=ticks()) for name in ("one", "two")]
    first, second = (json.loads(json.dumps(index.manifest.facts)) for index in made)
    assert {**first, "build": None} == {**second, "build": None}
    assert contents(made[0].uri) == contents(made[1].uri)
    assert made[0].fingerprint == made[1].fingerprint


def test_a_finished_index_is_left_alone_and_budgets_are_part_of_what_it_is(built: Artefact, gallery: Gallery) -> None:
    def broken() -> float:
        raise AssertionError("nothing is timed again")

    assert build_index(config(gallery, "built"), clock=broken).manifest == built.manifest
    assert config(gallery, "built", p95_ms=5).content() != config(gallery, "built").content()
    assert "min_recall" not in gallery.config().content(), "indices of other kinds stay what they are"


def test_budgets_that_nothing_keeps_cost_no_finished_index(gallery: Gallery) -> None:
    held = build_index(gallery.config(2, "held"))
    before = contents(held.uri)
    with pytest.raises(ConfigError, match="max_bytes=10 allows no kind"):
        build_index(config(gallery, "held", max_bytes=10, overwrite=True))
    assert contents(held.uri) == before
    assert GalleryIndex.open(held.uri).num_items == NUM_PICTURES


def test_query_vectors_are_asked_for_by_name(gallery: Gallery, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=rf"python -m jobs\.queries .*--set model={gallery.model}"):
        build_index(gallery.config(1, "never", kind="auto"))
    other = make_gallery(str(tmp_path), MIN_ROWS, seed=5)
    model = replace(Projection.open(other.model), model_fingerprint="feedfeedfeedfeed")
    theirs = write_queries(str(tmp_path / "theirs"), np.eye(RETRIEVAL_DIM), model)
    with pytest.raises(FingerprintMismatchError, match=r"feedfeedfeedfeed.*python -m jobs\.queries"):
        build_index(other.config(1, "never", kind="auto", queries=theirs.uri))
    few = write_queries(str(tmp_path / "few"), np.eye(RETRIEVAL_DIM), Projection.open(other.model))
    with pytest.raises(InputError, match=f"{MIN_QUERIES} are needed"):
        build_index(other.config(1, "never", kind="auto", queries=few.uri))


@pytest.mark.parametrize(
    "said", [{"queries": "/q"}, {"max_bytes": 1}, {"p95_ms": 1.0}, {"min_recall": 0.9}, {"tuning_rows": 150_000}]
)
def test_budgets_without_auto_are_refused(said: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"{next(iter(said))}=.* is for kind=auto only"):
        IndexConfig(kind="sq8", **said)


def test_auto_takes_no_parameters_and_sensible_budgets() -> None:
    for said in ({"num_lists": 8}, {"search": {"nprobe": 3}}):
        with pytest.raises(ConfigError, match="Leave num_lists and search out"):
            IndexConfig(kind="auto", **said)  # type: ignore[arg-type]
    for said in ({"min_recall": 1.1}, {"min_recall": 0.0}, {"max_bytes": -1}, {"p95_ms": -0.1}):
        with pytest.raises(ValidationError):
            IndexConfig(kind="auto", **said)  # type: ignore[arg-type]


def test_search_defaults_can_be_given(gallery: Gallery) -> None:
    index = build_index(gallery.config(1, "given", kind="ivf-pq", search={"nprobe": 3}))
    assert index.manifest.facts["search"] == {"nprobe": 3, "num_reranked": 200}
    with pytest.raises(InputError, match="ef_search=3 is nothing that an index of kind ivf-pq takes"):
        build_index(gallery.config(1, "never", kind="ivf-pq", search={"ef_search": 3}))


def test_a_small_gallery_is_flat_and_nothing_is_measured(tmp_path: Path) -> None:
    small = make_gallery(str(tmp_path), MIN_ROWS - 1)
    queries = write_queries(str(tmp_path / "q"), np.eye(RETRIEVAL_DIM), Projection.open(small.model))
    facts = build_index(small.config(kind="auto", queries=queries.uri)).manifest.facts
    assert (facts["kind"], facts["search"], "tuning" in facts) == ("flat", {}, False)


def test_large_shards_are_tried_on_a_sample_and_the_record_says_so(gallery: Gallery) -> None:
    few = config(gallery, "sampled").model_copy(update={"tuning_rows": 1200})
    index = build_index(few, clock=ticks())
    facts = index.manifest.facts["tuning"]
    assert (facts["rows"], facts["rows_per_shard"]) == (1200, NUM_PICTURES)
    growth = {point.kind: point.growth for point in curve_of(index)}
    assert growth.pop("hnsw") == pytest.approx(np.log(2400) / np.log(1200))
    assert set(growth.values()) == {2.0}
    assert index.manifest.counts["items"] == NUM_PICTURES


def test_times_are_compared_at_the_size_of_a_shard() -> None:
    scan = Measured("sq8", {"num_reranked": 20}, 10, 1.0, 0.99, 0.98, 1.0, 2.0, growth=10.0)
    graph = Measured("hnsw", {"ef_search": 32, "num_reranked": 10}, 90, 9.0, 0.97, 0.96, 2.0, 3.0, growth=1.2)
    assert choose([scan, graph], min_recall=0.95) is graph
    assert choose([scan, graph], min_recall=0.97) is scan
    assert choose([scan, graph], min_recall=0.95, p95_ms=3.5) is None
    assert choose([scan, replace(graph, p50_ms=10 / 1.2)], min_recall=0.95) is scan, "of equal ones the smaller"


def test_lists_stay_what_their_probes_were_chosen_for(gallery: Gallery) -> None:
    search = {"nprobe": 3, "num_reranked": 50}
    said = as_chosen({"kind": "ivf-pq", "search": search, "tuning": {"lists": 24}})
    index = build_index(gallery.config(1, "as-chosen", **said))
    assert (index.manifest.facts["kind"], index.manifest.facts["search"]) == ("ivf-pq", search)
    told = index_bytes("ivf-pq", [NUM_PICTURES], RETRIEVAL_DIM, 24)
    assert index.manifest.files[index_name(0)].num_bytes == told


def test_a_live_gallery_is_compacted_as_it_was_chosen(gallery: Gallery, tmp_path: Path) -> None:
    small = index_bytes("ivf-pq", [NUM_PICTURES], RETRIEVAL_DIM, 60)
    index = build_index(config(gallery, "live", 2, max_bytes=small), clock=ticks())
    uri, chosen = str(tmp_path / "live"), index.manifest.facts
    create_gallery(uri, index=index.uri)
    with GalleryWriter.open(uri, "w") as writer:
        writer.delete([item.item_id for item in gallery.items[:200]])
        writer.compact()
    reader = LiveGallery.open(uri)
    base = reader.view.version.base
    assert base is not None
    facts = open_pinned(Folder(uri), base.index, GALLERY_INDEX).manifest.facts
    assert (facts["kind"], facts["search"]) == (chosen["kind"], chosen["search"])
    assert "tuning" not in facts
    assert reader.num_items == NUM_PICTURES - 200
    reader.close()
