"""Raw features searched with M_Q folded into the query, against the index of the same model."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
from chatsearch.errors import ConfigError, CorruptArtefactError, FingerprintMismatchError, InputError
from chatsearch.index.build import build_index
from chatsearch.index.config import FoldConfig, IndexConfig
from chatsearch.index.exact import ExactIndex
from chatsearch.index.features import FeatureStore
from chatsearch.index.fold import NORMS, build_norms
from chatsearch.index.folded import FoldedGallery
from chatsearch.index.gallery import GalleryIndex
from chatsearch.index.live.create import create_gallery
from chatsearch.index.search_parameters import TAKEN, SearchParameters
from chatsearch.manifest import Artefact
from chatsearch.types import GalleryItem
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jobs.command import main
from jobs.fold import JOB
from tests.unit.index.synthetic import RETRIEVAL_DIM, Gallery, make_gallery, picture_hash, write_bundle, write_store

WIDTH, DIMENSION = 24, 6


def stretched(rng: np.random.Generator, condition: float) -> np.ndarray:
    """M_Q whose singular values span some orders of magnitude, so that most of a feature's length is lost in it."""
    left, _ = np.linalg.qr(rng.normal(size=(DIMENSION, DIMENSION)))
    right, _ = np.linalg.qr(rng.normal(size=(WIDTH, WIDTH)))
    return (left * np.geomspace(1.0, 1.0 / condition, DIMENSION)) @ right[:, :DIMENSION].T


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    seed=st.integers(0, 2**16),
    num_pictures=st.integers(1, 60),
    num_distinct=st.integers(1, 60),
    condition=st.sampled_from([1.0, 1e3, 1e6]),
    offset=st.sampled_from([0.0, 30.0]),
    k=st.integers(1, 70),
    num_excluded=st.integers(0, 5),
)
def test_two_models_over_one_store_answer_as_their_indices(
    *, seed: int, num_pictures: int, num_distinct: int, condition: float, offset: float, k: int, num_excluded: int
) -> None:
    """Ties, pictures that several items or none show, features in a narrow cone, and projections that lose most of them."""
    rng = np.random.default_rng(seed)
    distinct = rng.normal(size=(num_distinct, WIDTH)).astype(np.float32) + np.float32(offset)
    matrix_ND = distinct[rng.integers(num_distinct, size=num_pictures)]
    pictures = rng.integers(num_pictures, size=num_pictures + 3)
    items = [GalleryItem(f"é{n}", picture_hash(p), {"p": str(p)}) for n, p in enumerate(pictures)]
    queries_Bd = rng.normal(size=(4, DIMENSION))
    exclude = [{picture_hash(p) for p in rng.integers(num_pictures + 5, size=num_excluded)} for _ in queries_Bd]
    with tempfile.TemporaryDirectory() as base:
        write_store(f"{base}/features", matrix_ND, items)
        store = FeatureStore.open(f"{base}/features")
        for number in range(2):
            model = f"{base}/model-{number}"
            write_bundle(model, stretched(rng, condition).astype(np.float32), seed=number)
            norms = build_norms(FoldConfig(features=store.uri, model=model, output=f"{base}/norms-{number}"))
            folded = FoldedGallery.open(norms.uri, norms.manifest.facts["mq_fingerprint"], store=store)
            config = IndexConfig(features=store.uri, model=model, output=f"{base}/index-{number}", num_shards=2)
            index = GalleryIndex(build_index(config))
            assert folded.search(queries_Bd, k, exclude) == index.search(queries_Bd, k, exclude)
            assert (folded.num_items, folded.dimension) == (index.num_items, index.dimension)
            index.close()


def folded(gallery: Gallery, name: str = "norms", **changes: object) -> Artefact:
    config = FoldConfig(features=gallery.features, model=gallery.model, output=f"{gallery.base}/{name}")
    return build_norms(config.replace(**changes))


def test_many_queries_agree_with_the_oracle(tmp_path: Path) -> None:
    gallery = make_gallery(str(tmp_path), 500, num_twins=100)
    queries_BD = np.random.default_rng(1).normal(size=(600, RETRIEVAL_DIM))
    expected = ExactIndex(gallery.items, gallery.projected_Nd).search(queries_BD, 10)
    assert FoldedGallery.open(folded(gallery).uri).search(queries_BD, 10) == expected


@pytest.mark.parametrize("kind", ["flat", "ivf-pq", "ivf-rabitq", "hnsw"])
def test_one_index_over_raw_features_proposes_for_several_models(tmp_path: Path, kind: str) -> None:
    gallery = make_gallery(str(tmp_path), 1500, num_twins=100)
    store = FeatureStore.open(gallery.features)
    raw = GalleryIndex(build_index(gallery.config(2, "raw", model="", raw=True, kind=kind, num_lists=8)))
    assert (raw.dimension, raw.num_items) == (store.dimension, 1500)
    queries_BD = np.random.default_rng(1).normal(size=(50, RETRIEVAL_DIM))
    exclude = [{hit.content_hash for hit in raw.search(np.ones((1, store.dimension)), 3)[0]} for _ in queries_BD]
    far = SearchParameters(**dict.fromkeys(TAKEN[kind], 1500)) if TAKEN[kind] else None
    for seed in (0, 1):
        weight_dD = np.random.default_rng(seed + 7).normal(size=gallery.weight_dD.shape)
        model = write_bundle(f"{tmp_path}/model-{seed}", weight_dD, seed=seed).uri
        norms = folded(gallery, f"norms-{seed}", model=model)
        exact = FoldedGallery.open(norms.uri, store=store)
        proposed = FoldedGallery.open(norms.uri, store=store, proposals=raw)
        wanted = exact.search(queries_BD, 10, exclude)
        assert proposed.search(queries_BD, 10, exclude, far, num_proposed=1500) == wanted, "everything is proposed"
        found = proposed.search(queries_BD, 10, exclude, far, num_proposed=300)
        hits = [len({h.item_id for h in a} & {h.item_id for h in b}) for a, b in zip(found, wanted, strict=True)]
        assert sum(hits) / 500 >= 0.9
        known = {hit.item_id: hit.score for hit in exact.search(queries_BD[:1], 1500)[0]}
        assert all(hit.score == known[hit.item_id] for hit in proposed.search(queries_BD[:1], 10)[0])


def test_an_index_over_raw_features_is_taken_for_nothing_else(tmp_path: Path) -> None:
    gallery, other = make_gallery(f"{tmp_path}/a", 30), make_gallery(f"{tmp_path}/b", 31)
    raw = build_index(gallery.config(name="raw", model="", raw=True))
    norms = folded(gallery)
    with pytest.raises(FingerprintMismatchError, match=r"M_Q none: raw features, the model has M_Q"):
        GalleryIndex.open(raw.uri, norms.manifest.facts["mq_fingerprint"])
    with pytest.raises(FingerprintMismatchError, match=r"is over raw features.*python -m jobs\.index"):
        create_gallery(f"{tmp_path}/live", index=raw.uri)
    for index, what in (
        (gallery.index(), "M_Q"),
        (build_index(other.config(name="raw", model="", raw=True)), "features"),
    ):
        with pytest.raises(
            FingerprintMismatchError,
            match=rf"has {what} .*--set raw=true --set model= --set features={gallery.features}",
        ):
            FoldedGallery.open(norms.uri, proposals=GalleryIndex(index))
    with pytest.raises(InputError, match="looks at all rows"):
        FoldedGallery.open(norms.uri).search(np.ones((1, RETRIEVAL_DIM)), 5, num_proposed=20)
    proposed = FoldedGallery.open(norms.uri, proposals=GalleryIndex(raw))
    with pytest.raises(InputError, match="num_proposed=4 is less than k=5"):
        proposed.search(np.ones((1, RETRIEVAL_DIM)), 5, num_proposed=4)
    with pytest.raises(ConfigError, match="raw=true is for no model"):
        gallery.config(raw=True)
    with pytest.raises(ConfigError, match="kind=auto chooses by query vectors"):
        gallery.config(model="", raw=True, kind="auto")


def test_features_too_long_for_float32_products_are_scored_all_the_same(tmp_path: Path) -> None:
    gallery = make_gallery(str(tmp_path), 40)
    write_store(gallery.features + "-long", gallery.matrix_ND * np.float32(1e25), gallery.items)
    norms = folded(gallery, features=gallery.features + "-long")
    queries_BD = np.random.default_rng(1).normal(size=(5, RETRIEVAL_DIM))
    index = GalleryIndex(build_index(gallery.config(features=gallery.features + "-long")))
    assert FoldedGallery.open(norms.uri).search(queries_BD, 7) == index.search(queries_BD, 7)


def test_norms_are_made_once_and_name_what_they_are_of(tmp_path: Path) -> None:
    gallery = make_gallery(str(tmp_path), 30)
    norms = folded(gallery)
    assert folded(gallery).manifest == norms.manifest
    assert norms.manifest.files[NORMS].num_bytes < 4 * 30 + 200, "one number a picture"
    assert FoldedGallery.open(norms.uri).version == norms.fingerprint
    with pytest.raises(ConfigError, match="output is not set"):
        build_norms(FoldConfig(features=gallery.features, model=gallery.model))


def test_what_does_not_belong_together_is_refused_with_both_fingerprints(tmp_path: Path) -> None:
    gallery, other = make_gallery(f"{tmp_path}/a", 30), make_gallery(f"{tmp_path}/other", 31, seed=1)
    norms = folded(gallery)
    ours = norms.manifest.facts["mq_fingerprint"]
    with pytest.raises(
        FingerprintMismatchError, match=rf"M_Q {ours}, the model has M_Q {'f' * 16}.*python -m jobs\.fold"
    ):
        FoldedGallery.open(norms.uri, "f" * 16)
    with pytest.raises(FingerprintMismatchError, match=f"M_Q {ours}.*--set model={other.model} --set output="):
        FoldedGallery.open(norms.uri, model=other.model)
    store = FeatureStore(write_store(f"{tmp_path}/none", gallery.matrix_ND[:0]))
    with pytest.raises(FingerprintMismatchError, match=f"and are to be used with features {store.fingerprint}"):
        FoldedGallery.open(norms.uri, store=store)
    store_b = write_store(f"{tmp_path}/b", other.matrix_ND[:7], encoder="encoder-b")
    with pytest.raises(FingerprintMismatchError, match=r"encoder encoder-b.*python -m jobs\.embed"):
        folded(gallery, "norms-b", features=store_b.uri)
    with pytest.raises(InputError, match=r"\(1, 3\)"):
        FoldedGallery.open(norms.uri).search(np.ones((1, 3)), 5)


def test_norms_in_another_order_are_refused(tmp_path: Path) -> None:
    gallery = make_gallery(str(tmp_path), 30)
    norms = folded(gallery)
    store = FeatureStore.open(gallery.features)
    store.hashes.reverse()
    with pytest.raises(CorruptArtefactError, match=r"30 in an order of their own; store .* has 30 pictures"):
        FoldedGallery.open(norms.uri, store=store)


@pytest.mark.parametrize("value", [0.0, np.nan, np.inf])
def test_a_picture_without_a_direction_is_named(tmp_path: Path, value: float) -> None:
    gallery = make_gallery(str(tmp_path), 30)
    matrix_ND = gallery.matrix_ND.copy()
    matrix_ND[4] = value
    write_store(gallery.features + "-bad", matrix_ND, gallery.items)
    with pytest.raises(CorruptArtefactError, match=f"1 of 30 pictures.*first {picture_hash(4)[:16]}"):
        folded(gallery, features=gallery.features + "-bad")


def test_the_job_makes_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gallery = make_gallery(str(tmp_path), 30)
    places = [f"features={gallery.features}", f"model={gallery.model}", f"output={tmp_path}/norms"]
    settings = [part for place in places for part in ("--set", place)]
    assert main(JOB, ["--no-tracking", *settings]) == 0
    assert f"{tmp_path}/norms" in capsys.readouterr().out
    assert FoldedGallery.open(f"{tmp_path}/norms").num_items == 30
