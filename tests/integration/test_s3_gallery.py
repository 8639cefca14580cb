"""A feature store and an index that live on a real S3 server."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from chatsearch.errors import CorruptArtefactError, IncompleteArtefactError
from chatsearch.index.build import build_index
from chatsearch.index.exact import ExactIndex
from chatsearch.index.features import FeatureStore
from chatsearch.index.gallery import GalleryIndex
from chatsearch.index.shard import IndexShard, index_name

from tests.unit.index.synthetic import RETRIEVAL_DIM, make_gallery

pytestmark = pytest.mark.s3


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHATSEARCH_CACHE", str(tmp_path / "cache"))


def test_a_gallery_on_s3_answers_as_one_on_disk(s3: str, tmp_path: Path) -> None:
    remote, local = make_gallery(s3, 50, num_twins=10), make_gallery(str(tmp_path / "gallery"), 50, num_twins=10)
    store = FeatureStore.open(remote.features, verify=True)
    np.testing.assert_array_equal(store.matrix_ND, remote.matrix_ND)
    there, here = build_index(remote.config(3)), build_index(local.config(3))
    assert there.manifest.files == here.manifest.files
    queries_BD = np.random.default_rng(0).normal(size=(20, RETRIEVAL_DIM))
    expected = ExactIndex(local.items, local.projected_Nd).search(queries_BD, 10)
    assert GalleryIndex.open(there.uri, there.manifest.facts["mq_fingerprint"]).search(queries_BD, 10) == expected
    assert build_index(remote.config(3)).manifest == there.manifest


def test_a_damaged_object_is_refused_by_name(s3: str) -> None:
    artefact = make_gallery(s3, 20).index(2)
    name = index_name(0)
    data = bytearray(artefact.folder.read_bytes(name))
    data[-1] ^= 1
    artefact.folder.write_bytes(name, bytes(data))
    with pytest.raises(CorruptArtefactError, match=f"{artefact.uri}/{name}"):
        IndexShard.open(artefact.uri, 0)


def test_an_interrupted_build_is_not_an_index(s3: str) -> None:
    gallery = make_gallery(s3, 20)

    def stop(done: int, _: int) -> None:
        if done == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_index(gallery.config(2), on_shard=stop)
    with pytest.raises(IncompleteArtefactError, match="command again to continue"):
        GalleryIndex.open(gallery.config(2).output)
    assert GalleryIndex(build_index(gallery.config(2))).num_items == 20
