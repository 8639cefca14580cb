"""The embed job on a real Ray: what it stores, and how it goes on after an interruption."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from chatsearch.corpora.base import Sample
from chatsearch.corpora.config import ParquetImagesConfig
from chatsearch.corpora.images import decode_rgb
from chatsearch.data.config import PrepareConfig
from chatsearch.data.prepare import prepare
from chatsearch.data.shards import ImageStore
from chatsearch.errors import (
    ConfigError,
    FingerprintMismatchError,
    GalleryError,
    IncompleteArtefactError,
    MissingInputError,
    TooManyRejectedError,
)
from chatsearch.index.build import build_index
from chatsearch.index.config import EmbedConfig, IndexConfig
from chatsearch.index.embed import embed
from chatsearch.index.features import FeatureStore, part_name
from chatsearch.index.gallery import GalleryIndex
from chatsearch.manifest import begin_output
from chatsearch.model.bundle import load_bundle
from chatsearch.model.layout import VISION
from chatsearch.types import Document, Kind, Segment, content_hash

from tests.integration.embed_samples import config_for, contents, make_model, picture, sample, write_shards

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_model(tmp_path_factory.mktemp("model") / "bundle")


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> str:
    """25 pictures; documents 20 to 24 are captions that show what items 0 to 4 show, and picture 24 is in no item."""
    items = [sample(f"item-{n:02d}", Kind.GALLERY, picture(n), {"n": str(n), "truth": "x" * 999}) for n in range(24)]
    captions = [sample(f"caption-{n}", Kind.CAPTION, picture(n)) for n in (0, 1, 2, 3, 4, 24)]
    return write_shards(tmp_path_factory.mktemp("shards") / "s", [captions, items[12:], items[:12]])


@pytest.mark.usefixtures("ray_session")
class TestOnRay:
    def test_every_picture_is_encoded_once_and_found_under_its_item(
        self, shards: str, model: str, tmp_path: Path
    ) -> None:
        store = FeatureStore(embed(config_for(shards, model, tmp_path / "f", tokens=True, num_actors=2)))
        counts = store.artefact.manifest.counts
        assert counts == {
            "pictures": 25,
            "reused": 0,
            "items": 24,
            "rejected": 0,
            "parts": 3,
            "attributes_left_out": 24,
        }
        assert store.artefact.manifest.facts["attributes_left_out"] == {"truth": 24}
        assert sorted(store.hashes) == ImageStore.open(shards).hashes()
        bundle = load_bundle(model)
        assert store.encoder_fingerprint == bundle.encoder_fingerprint
        assert store.tokens_NTE is not None
        for number in (0, 13, 24):
            pixels = bundle.vision.preprocess(decode_rgb(picture(number)))[None]
            seen = bundle.vision(pixels)
            row = store.row_of(content_hash(picture(number)))
            np.testing.assert_allclose(store.matrix_ND[row], seen.cls_BD[0].numpy(), rtol=1e-4, atol=1e-5)
            np.testing.assert_allclose(store.tokens_NTE[row], seen.tokens_BTE[0].numpy(), rtol=1e-2, atol=1e-2)
        items = store.items()
        assert [item.item_id for item in items] == [f"item-{n:02d}" for n in range(24)]
        assert items[7].content_hash == content_hash(picture(7))
        assert items[7].metadata == {"n": "7"}
        # The gallery side of training, M_Q applied by torch, and the index agree.
        index = GalleryIndex(
            build_index(
                IndexConfig(features=store.uri, model=model, output=str(tmp_path / "i"), num_shards=2),
            )
        )
        with torch.inference_mode():
            query_BD = bundle.searcher.gallery_embedding(torch.from_numpy(store.matrix_ND[row].copy())[None]).numpy()
            first = bundle.searcher.gallery_embedding(torch.from_numpy(store.get(items[7].content_hash).copy())[None])
        (hits,) = index.search(query_BD, 24)
        (score,) = [hit.score for hit in hits if hit.item_id == "item-07"]
        assert score == pytest.approx(float((query_BD @ first.numpy().T)[0, 0]), abs=1e-5)

    def test_every_row_is_what_a_plain_loop_over_the_pictures_gives(
        self, shards: str, model: str, tmp_path: Path
    ) -> None:
        """Goal E5: cosine >= 0.99999 a row, each picture once."""
        store = FeatureStore(embed(config_for(shards, model, tmp_path / "f", num_actors=2)))
        vision, images = load_bundle(model).vision, ImageStore.open(shards)
        with torch.inference_mode():
            one_by_one = [vision(vision.preprocess(decode_rgb(images.get(name)))[None]).cls_BD for name in store.hashes]
        cosines = torch.cosine_similarity(torch.cat(one_by_one), torch.from_numpy(store.matrix_ND.copy()))
        assert float(cosines.min()) >= 0.99999
        assert sorted(store.hashes) == images.hashes()

    def test_a_new_checkpoint_needs_no_picture_again(self, shards: str, model: str, tmp_path: Path) -> None:
        """Goal E4: the stored features projected with another M_Q are the index of a gallery that was embedded anew, byte for byte."""
        later = make_model(tmp_path / "later", seed=7)
        assert load_bundle(later).mq_fingerprint != load_bundle(model).mq_fingerprint
        stores = {
            name: embed(config_for(shards, uri, tmp_path / f"features-{name}"))
            for name, uri in (("before", model), ("anew", later))
        }
        made = {}
        for name, store in stores.items():
            index = build_index(
                IndexConfig(features=store.uri, model=later, output=str(tmp_path / f"index-{name}"), num_shards=2)
            )
            made[name] = index.fingerprint, index.manifest.id_hash, contents(tmp_path / f"index-{name}")
        assert made["before"] == made["anew"]

    def test_an_interrupted_job_makes_only_what_is_missing(self, shards: str, model: str, tmp_path: Path) -> None:
        whole = embed(config_for(shards, model, tmp_path / "whole"))
        cut = tmp_path / "cut"
        embed(config_for(shards, model, cut))
        config = config_for(shards, model, cut)
        # As a kill between the second and the third part leaves it.
        (cut / "manifest.json").unlink()
        (cut / part_name(1)).unlink()
        (cut / "started.json").write_bytes(_started_of(config, tmp_path / "fresh", model))
        kept = {name: (cut / part_name(name)).stat().st_mtime_ns for name in (0, 2)}
        with pytest.raises(IncompleteArtefactError, match="command again to continue"):
            FeatureStore.open(str(cut))
        again = embed(config)
        assert {name: (cut / part_name(name)).stat().st_mtime_ns for name in (0, 2)} == kept
        assert contents(cut) == contents(tmp_path / "whole")
        assert again.manifest.files == whole.manifest.files
        assert again.fingerprint == whole.fingerprint
        hashes = FeatureStore(again).hashes
        assert len(hashes) == len(set(hashes)) == 25

    def test_relative_uris_reach_actors_that_run_in_another_folder(
        self, shards: str, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        config = config_for(os.path.relpath(shards), os.path.relpath(model), Path("f"))
        assert embed(config).uri == str(tmp_path / "f")

    def test_without_gallery_documents_every_picture_is_an_item(self, model: str, tmp_path: Path) -> None:
        """Two shards that share pictures: each of them once."""
        one = write_shards(tmp_path / "one", [[sample(f"a{n}", Kind.CAPTION, picture(n)) for n in range(5)]])
        two = write_shards(tmp_path / "two", [[sample(f"b{n}", Kind.CAPTION, picture(n)) for n in range(3, 8)]])
        store = FeatureStore(embed(config_for((one, two), model, tmp_path / "f")))
        hashes = sorted(content_hash(picture(n)) for n in range(8))
        assert sorted(store.hashes) == hashes
        assert [(item.item_id, item.content_hash) for item in store.items()] == [(name, name) for name in hashes]
        assert store.images == (one, two)

    def test_bad_pictures_are_set_aside_by_key(
        self, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        bad = [picture(1)[:60], b"no picture at all"]
        # prepare finds these itself; they stand for pictures that went bad after it.
        monkeypatch.setattr("chatsearch.data.part.check_image", lambda data: (1, 1))
        good = [sample(f"item-{n}", Kind.GALLERY, picture(n)) for n in range(6)]
        shards = write_shards(
            tmp_path / "s", [[*good, *(sample(f"bad-{n}", Kind.GALLERY, data) for n, data in enumerate(bad))]]
        )
        config = config_for(shards, model, tmp_path / "f")
        with pytest.raises(TooManyRejectedError, match=r"2 of 8 pictures were set aside, the limit is 5\.0%") as caught:
            embed(config)
        assert "max_rejected_fraction=1" in str(caught.value)
        artefact = embed(config.replace(max_rejected_fraction=1.0))
        counts = artefact.manifest.counts
        assert (counts["pictures"], counts["items"], counts["rejected"], counts["parts"]) == (6, 6, 2, 1)
        listed = (tmp_path / "f" / "rejected" / "part-00000.jsonl").read_text()
        assert all(content_hash(data) in listed for data in bad)
        assert len(FeatureStore(artefact).items()) == 6

    def test_adding_pictures_reads_and_encodes_only_what_is_new(self, shards: str, model: str, tmp_path: Path) -> None:
        """Old pictures are damaged on the disk, so that whoever read one of them would fail."""
        everything = config_for(shards, model, tmp_path / "once", tokens=True, thumbnail_px=16)
        at_once = FeatureStore(embed(everything))
        some = [sample(f"old-{n}", Kind.GALLERY, picture(n)) for n in (3, 7, 24, 15)]
        old = write_shards(tmp_path / "old", [some])
        earlier = embed(everything.replace(gallery=old, output=str(tmp_path / "earlier")))
        grown = tmp_path / "grown"
        shutil.copytree(shards, grown)
        for path in (grown / "images").iterdir():
            held = path.read_bytes()
            for n in (3, 7, 24, 15):
                held = held.replace(picture(n)[50:70], b"\0" * 20)
            path.write_bytes(held)
        store = FeatureStore(
            embed(everything.replace(gallery=str(grown), output=str(tmp_path / "f"), reuse=earlier.uri))
        )
        assert store.artefact.manifest.counts["reused"] == 4
        assert store.artefact.manifest.inputs["reuse.0"] == earlier.fingerprint
        assert contents(tmp_path / "f") == contents(tmp_path / "once")
        assert store.fingerprint != at_once.fingerprint
        assert [item.item_id for item in store.items()] == [f"item-{n:02d}" for n in range(24)]
        # All of it again: nothing is encoded, nothing is read.
        shutil.rmtree(grown / "images")
        again = config_for(shards, model, tmp_path / "again", tokens=True, thumbnail_px=16, reuse=store.uri)
        assert embed(again).manifest.counts["reused"] == 25
        assert contents(tmp_path / "again") == contents(tmp_path / "once")

    def test_columns_of_parquet_files_reach_the_items(self, model: str, tmp_path: Path) -> None:
        columns = {
            "sku": ["b", "a"],
            "image": [picture(1), picture(2)],
            "price": [3.5, 4.0],
            "note": ["y" * 400, "short"],
        }
        pq.write_table(pa.table(columns), tmp_path / "goods.parquet")
        corpus = ParquetImagesConfig(
            path=str(tmp_path / "goods.parquet"), id="sku", caption="", emit=(Kind.GALLERY,), metadata=("price", "note")
        )
        shards = prepare(PrepareConfig(corpus=corpus, output=str(tmp_path / "shards"))).uri
        store = FeatureStore(embed(config_for(shards, model, tmp_path / "f")))
        assert [(item.item_id, item.metadata) for item in store.items()] == [
            ("a", {"price": "4.0", "note": "short"}),
            ("b", {"price": "3.5"}),
        ]
        assert store.artefact.manifest.facts["attributes_left_out"] == {"note": 1}

    def test_half_precision_and_thumbnails(self, shards: str, model: str, tmp_path: Path) -> None:
        full = FeatureStore(embed(config_for(shards, model, tmp_path / "full")))
        config = config_for(shards, model, tmp_path / "half", dtype="float16", thumbnail_px=16)
        half = FeatureStore(embed(config))
        assert half.hashes == full.hashes
        np.testing.assert_array_equal(half.matrix_ND, full.matrix_ND.astype(np.float16).astype(np.float32))
        assert (half.dtype, half.thumbnail_px, full.dtype, full.thumbnail_px) == ("float16", 16, "float32", 0)
        assert half.fingerprint != full.fingerprint
        assert full.thumbnail(full.hashes[0]) is None
        for number in (0, 9, 24):
            small = half.thumbnail(content_hash(picture(number)))
            assert small is not None
            assert decode_rgb(small).size == (16, 11)
        with pytest.raises(MissingInputError, match="is not among the 25"):
            half.thumbnail("0" * 64)
        # A store of float32 can be reused for one of float16, and the rows are the same.
        reused = config.replace(output=str(tmp_path / "reused"), thumbnail_px=0, reuse=full.uri)
        assert np.array_equal(FeatureStore(embed(reused)).matrix_ND, half.matrix_ND)

    def test_a_failure_in_a_worker_comes_back_under_its_name(self, shards: str, model: str, tmp_path: Path) -> None:
        """The encoder's weights are read by the actors alone."""
        copy = tmp_path / "model"
        copy.mkdir()
        for file in Path(model).iterdir():
            (copy / file.name).write_bytes(file.read_bytes())
        weights = copy / VISION
        data = bytearray(weights.read_bytes())
        data[-1] ^= 1
        weights.write_bytes(data)
        with pytest.raises(Exception, match=r"vision\.safetensors is damaged") as caught:
            embed(config_for(shards, str(copy), tmp_path / "f"))
        assert type(caught.value).__module__ == "chatsearch.errors"


def _started_of(config: EmbedConfig, scratch: Path, model: str) -> bytes:
    """What a job that has just begun leaves in its output."""
    from chatsearch.data.shards import DocumentShards

    inputs = {f"gallery.{n}": DocumentShards.open(uri).fingerprint for n, uri in enumerate(config.gallery)}
    inputs["model"] = load_bundle(model).encoder_fingerprint
    begin_output(str(scratch), "feature-store", config, inputs)
    return (scratch / "started.json").read_bytes()


def test_a_finished_store_starts_nothing(
    shards: str, model: str, tmp_path: Path, ray_session: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = embed(config_for(shards, model, tmp_path / "f"))
    monkeypatch.setattr("ray.data.from_items", lambda *_, **__: pytest.fail("Ray Data was asked"))
    again = embed(config_for(shards, model, tmp_path / "f", num_actors=3, decode_threads=1))
    assert again.manifest == first.manifest


def test_a_store_that_cannot_be_reused_is_refused(
    shards: str, model: str, tmp_path: Path, ray_session: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    earlier = FeatureStore(embed(config_for(shards, model, tmp_path / "earlier", dtype="float16")))
    good = config_for(shards, model, tmp_path / "f", reuse=earlier.uri, dtype="float16")
    for changes, lacks in (
        ({"tokens": True}, "no tokens"),
        ({"dtype": "float32"}, "no float32 features"),
        ({"thumbnail_px": 32}, r"no thumbnails of 32 pixels \(but of 0\)"),
    ):
        with pytest.raises(ConfigError, match=lacks):
            embed(good.replace(**changes))
    with pytest.raises(IncompleteArtefactError, match="nothing is there"):
        embed(good.replace(reuse=(earlier.uri, str(tmp_path / "none"))))
    other = make_model(tmp_path / "other", vision_seed=4)
    with pytest.raises(FingerprintMismatchError) as caught:
        embed(good.replace(model=other))
    theirs = load_bundle(other).encoder_fingerprint
    assert earlier.encoder_fingerprint in str(caught.value)
    assert theirs in str(caught.value)
    assert "Leave it out of reuse" in str(caught.value)
    assert not (tmp_path / "f").exists()


def test_mistakes_are_named_before_anything_starts(shards: str, model: str, tmp_path: Path) -> None:
    good = config_for(shards, model, tmp_path / "f")
    for name in ("gallery", "model", "output"):
        with pytest.raises(ConfigError, match=f"--set {name}=URI"):
            embed(good.replace(**{name: ""}))
    with pytest.raises(IncompleteArtefactError, match="nothing is there"):
        embed(good.replace(gallery=str(tmp_path / "none")))
    with pytest.raises(FingerprintMismatchError, match="a document-shards, not a model"):
        embed(good.replace(model=shards))
    with pytest.raises(FingerprintMismatchError, match="holds nothing, not"):
        embed(good.replace(model=str(tmp_path / "none")))
    text = Sample(Document("t", Kind.TEXT, (Segment(text="words"),)))
    words = write_shards(tmp_path / "words", [[text]])
    with pytest.raises(GalleryError, match="no picture in"):
        embed(good.replace(gallery=words))
    twice = write_shards(tmp_path / "twice", [[sample("same", Kind.GALLERY, picture(n)) for n in range(2)]])
    with pytest.raises(GalleryError, match="'same' appears more than once"):
        embed(good.replace(gallery=twice, output=str(tmp_path / "g")))
