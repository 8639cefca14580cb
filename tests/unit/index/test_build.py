"""What an index holds, which mistakes it refuses, and that a rerun does nothing."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import faiss
import numpy as np
import pytest
from chatsearch.errors import (
    ConfigError,
    ConflictingOutputError,
    CorruptArtefactError,
    FingerprintMismatchError,
    GalleryError,
    MissingInputError,
)
from chatsearch.index import build
from chatsearch.index.build import build_index
from chatsearch.index.items import read_items
from chatsearch.index.shard import index_name, items_name, shard_of
from chatsearch.model.layout import PROJECTION
from chatsearch.types import GalleryItem, faiss_id

from tests.unit.index.synthetic import RETRIEVAL_DIM, Gallery, picture_hash, write_bundle, write_store

Make = Callable[..., Gallery]


def contents(folder: str) -> dict[str, bytes]:
    files = (path for path in Path(folder).rglob("*") if path.is_file() and path.name != "manifest.json")
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_each_vector_lies_under_its_own_id(make_gallery: Make) -> None:
    """Row order is never a join: every id leads to unit(f_CLS M_Q) of its own picture."""
    gallery = make_gallery(40)
    artefact = gallery.index(3)
    seen = 0
    for shard in range(3):
        index = faiss.read_index(artefact.folder.path(index_name(shard)))
        assert isinstance(index, faiss.IndexIDMap2)
        table = read_items(artefact.folder.path(items_name(shard)))
        for item in table:
            number = faiss_id(item.item_id)
            assert shard_of(number, 3) == shard
            raw = gallery.weight_dD @ gallery.matrix_ND[gallery.row[item.content_hash]]
            np.testing.assert_allclose(index.reconstruct(number), raw / np.linalg.norm(raw), atol=1e-6)
            seen += 1
        assert index.ntotal == len(table)
    assert seen == 40


def test_shards_of_random_ids_are_even() -> None:
    counts = np.bincount([shard_of(faiss_id(f"item {n}"), 4) for n in range(4000)])
    assert len(counts) == 4
    assert counts.min() > 900


def test_a_rerun_leaves_a_finished_index_alone(make_gallery: Make) -> None:
    gallery = make_gallery(10)
    first = build_index(gallery.config(2))
    before = {path: Path(path).stat().st_mtime_ns for path in map(first.folder.path, first.folder.list())}
    shards_built: list[tuple[int, int]] = []
    again = build_index(gallery.config(2), on_shard=lambda *done: shards_built.append(done))
    assert again.fingerprint == first.fingerprint
    assert shards_built == []
    assert before == {path: Path(path).stat().st_mtime_ns for path in before}


def test_two_builds_are_byte_identical(make_gallery: Make) -> None:
    gallery = make_gallery(30)
    first, second = build_index(gallery.config(3, "one")), build_index(gallery.config(3, "two"))
    assert contents(first.uri) == contents(second.uri)
    assert first.fingerprint == second.fingerprint
    assert first.manifest.files == second.manifest.files


def test_an_interrupted_build_is_finished_by_the_next(make_gallery: Make) -> None:
    gallery = make_gallery(30)
    whole = build_index(gallery.config(3, "whole"))

    def stop(done: int, _: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_index(gallery.config(3, "cut"), on_shard=stop)
    assert contents(build_index(gallery.config(3, "cut")).uri) == contents(whole.uri)


def test_another_index_at_the_output_is_kept_unless_overwritten(make_gallery: Make) -> None:
    gallery = make_gallery(10)
    build_index(gallery.config(2))
    with pytest.raises(ConflictingOutputError, match="overwrite=true"):
        build_index(gallery.config(1))
    assert build_index(gallery.config(1, overwrite=True)).manifest.counts["shards"] == 1


def test_features_of_another_encoder_are_refused_with_the_repair(make_gallery: Make) -> None:
    gallery = make_gallery(10)
    other = write_bundle(gallery.model + "-b", gallery.weight_dD, encoder="encoder-b")
    with pytest.raises(FingerprintMismatchError) as caught:
        build_index(gallery.config(model=other.uri))
    message = str(caught.value)
    assert "encoder-a" in message
    assert "encoder-b" in message
    assert f"python -m jobs.embed --set 'gallery=[\"/data/shards\"]' --set model={other.uri}" in message


def test_a_projection_of_another_width_is_refused(make_gallery: Make) -> None:
    gallery = make_gallery(10)
    narrow = write_bundle(gallery.model + "-narrow", gallery.weight_dD[:, :5])
    with pytest.raises(FingerprintMismatchError, match=r"feature width 12.*feature width 5"):
        build_index(gallery.config(model=narrow.uri))


def test_a_damaged_projection_is_refused_by_name(make_gallery: Make) -> None:
    gallery = make_gallery(10)
    path = Path(gallery.model) / PROJECTION
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(CorruptArtefactError, match=r"projection\.safetensors"):
        build_index(gallery.config())


def test_an_empty_gallery_is_named(make_gallery: Make) -> None:
    gallery = make_gallery(3)
    write_store(gallery.features + "-empty", gallery.matrix_ND, [])
    with pytest.raises(GalleryError, match="no gallery items"):
        build_index(gallery.config(features=gallery.features + "-empty"))


def test_repeated_item_ids_are_named(make_gallery: Make) -> None:
    gallery = make_gallery(3)
    items = [
        GalleryItem("twice", picture_hash(0)),
        GalleryItem("once", picture_hash(1)),
        GalleryItem("twice", picture_hash(2)),
    ]
    write_store(gallery.features + "-twice", gallery.matrix_ND, items)
    with pytest.raises(GalleryError, match="'twice' appears more than once"):
        build_index(gallery.config(features=gallery.features + "-twice"))


def test_colliding_ids_are_named(make_gallery: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """No two strings with the same 63 bits are known, so the hash is made short."""
    monkeypatch.setattr(build, "faiss_id", lambda item_id: faiss_id(item_id) % 8)
    with pytest.raises(GalleryError, match=r"'item-.*' and 'item-.*' have the same 63-bit id"):
        make_gallery(20).index()


@pytest.mark.parametrize("bad", [np.nan, np.inf, 0.0])
def test_features_without_a_direction_are_refused(make_gallery: Make, bad: float) -> None:
    gallery = make_gallery(6)
    matrix_ND = gallery.matrix_ND.copy()
    matrix_ND[4] = bad
    write_store(gallery.features + "-bad", matrix_ND)
    with pytest.raises(
        CorruptArtefactError, match=rf"1 of 3 pictures in features/part-00001\.parquet.*{picture_hash(4)[:16]}"
    ):
        build_index(gallery.config(features=gallery.features + "-bad"))


def test_an_item_without_features_is_named(make_gallery: Make) -> None:
    gallery = make_gallery(3)
    write_store(gallery.features + "-lost", gallery.matrix_ND, [GalleryItem("lost", "0" * 64)])
    with pytest.raises(MissingInputError, match="0000000000000000 is not among the 3"):
        build_index(gallery.config(features=gallery.features + "-lost"))


@pytest.mark.parametrize("name", ["features", "model", "output"])
def test_a_uri_that_is_not_set_is_named(make_gallery: Make, name: str) -> None:
    with pytest.raises(ConfigError, match=f"--set {name}=URI"):
        build_index(make_gallery(3).config(**{name: ""}))


def test_more_shards_than_items(make_gallery: Make) -> None:
    artefact = make_gallery(2).index(5)
    assert sum(artefact.manifest.facts["items_per_shard"]) == 2
    assert artefact.manifest.facts["dimension"] == RETRIEVAL_DIM


def test_building_and_searching_need_neither_torch_nor_ray() -> None:
    code = (
        "import sys; import chatsearch.index.build, chatsearch.index.gallery, chatsearch.index.exact; "
        "print(*[m for m in ('torch', 'ray', 'transformers', 'mlflow') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
