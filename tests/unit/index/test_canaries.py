"""Whole files that do not belong together: refused by name when a shard opens, and while it serves."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from chatsearch.config import digest
from chatsearch.errors import CorruptArtefactError
from chatsearch.index.build import build_index
from chatsearch.index.canaries import NUM_CANARIES, choose, read_canaries
from chatsearch.index.gallery import GalleryIndex
from chatsearch.index.items import ItemTable, read_items
from chatsearch.index.search_parameters import TAKEN
from chatsearch.index.shard import IndexShard, canaries_name, items_name, vectors_name
from chatsearch.index.vectors import exact_scores, unit_rows
from chatsearch.manifest import MANIFEST, Artefact, file_entry, open_artefact
from chatsearch.storage import Folder

from tests.unit.index.synthetic import Gallery, make_gallery

NUM_PICTURES = 1200


@pytest.fixture(scope="module")
def gallery(tmp_path_factory: pytest.TempPathFactory) -> Gallery:
    return make_gallery(str(tmp_path_factory.mktemp("canaries")), NUM_PICTURES, num_twins=100)


@pytest.fixture(scope="module", params=list(TAKEN))
def built(request: pytest.FixtureRequest, gallery: Gallery) -> Artefact:
    return build_index(gallery.config(2, f"index-{request.param}", kind=request.param, num_lists=4))


def copied(built: Artefact, target: Path) -> str:
    for name in [MANIFEST, *built.manifest.files]:
        Folder(str(target)).write_bytes(name, built.folder.read_bytes(name))
    return str(target)


def sealed_again(uri: str, *names: str) -> None:
    """Enter the files as they are now into the manifest, as if they had been built so."""
    path = Path(uri) / MANIFEST
    manifest = json.loads(path.read_text())
    manifest["files"] |= {name: file_entry(Folder(uri), name).model_dump() for name in names}
    manifest["seal"] = digest({name: value for name, value in manifest.items() if name != "seal"})
    path.write_text(json.dumps(manifest))


def swap_rows(column: str) -> Callable[[pa.Table], pa.Table]:
    """Two rows of the middle change places in some columns, the faiss ids stay."""

    def swap(table: pa.Table) -> pa.Table:
        order = np.arange(len(table))
        order[[300, 301]] = order[[301, 300]]
        names = ["item_id", "content_hash", "metadata"] if column == "all" else [column]
        for name in names:
            at = table.column_names.index(name)
            table = table.set_column(at, name, table.column(name).take(order))
        return table

    return swap


@pytest.mark.parametrize("column", ["item_id", "content_hash", "metadata", "all"])
def test_two_swapped_rows_of_metadata_are_found_although_every_file_is_whole(
    built: Artefact, tmp_path: Path, column: str
) -> None:
    uri = copied(built, tmp_path / "index")
    path = Path(uri) / items_name(1)
    pq.write_table(swap_rows(column)(pq.read_table(path)), path)
    sealed_again(uri, items_name(1))
    assert open_artefact(uri, built.manifest.kind, verify=True)
    assert len(IndexShard.open(uri, 0))
    with pytest.raises(CorruptArtefactError, match=r"Shard 1 of .*/index: its items are not those"):
        IndexShard.open(uri, 1)


def test_swapped_vectors_are_found(built: Artefact, tmp_path: Path) -> None:
    if vectors_name(0) not in built.manifest.files:
        pytest.skip("the vectors lie in the FAISS file")
    uri = copied(built, tmp_path / "index")
    path = Path(uri) / vectors_name(0)
    vectors = np.load(path)
    vectors[[5, 6]] = vectors[[6, 5]]
    np.save(path, vectors)
    sealed_again(uri, vectors_name(0))
    with pytest.raises(CorruptArtefactError, match="its items are not those"):
        IndexShard.open(uri, 0)


def test_files_of_another_build_of_the_same_gallery_are_found(
    gallery: Gallery, built: Artefact, tmp_path: Path
) -> None:
    """Other pictures under the same item ids: the same faiss ids, the same sizes."""
    others = [*gallery.items[1:], gallery.items[0]]
    table = read_items(built.folder.local_path(items_name(0)))
    hash_of = {ours.item_id: other.content_hash for ours, other in zip(gallery.items, others, strict=True)}
    uri = copied(built, tmp_path / "index")
    path = Path(uri) / items_name(0)
    hashes = pa.array([hash_of[item.item_id] for item in table], pa.string())
    pq.write_table(pq.read_table(path).set_column(1, "content_hash", hashes), path)
    sealed_again(uri, items_name(0))
    with pytest.raises(CorruptArtefactError, match="its items are not those"):
        GalleryIndex.open(uri)


def test_canaries_are_asked_while_a_shard_serves(built: Artefact) -> None:
    shard = IndexShard.open(built, 0)
    shard.check()
    table = pq.read_table(built.folder.local_path(items_name(0)))
    order = np.roll(np.arange(len(table)), 1)
    for name in ("item_id", "content_hash", "metadata"):
        table = table.set_column(table.column_names.index(name), name, table.column(name).take(order))
    shard.items = ItemTable(table)  # what a page of memory gone bad may look like
    with pytest.raises(CorruptArtefactError, match="does not answer as it did when it was built: canary 0 of 4"):
        shard.check()


def test_every_shard_has_canaries_that_its_defaults_find(built: Artefact) -> None:
    for number in range(2):
        canaries = read_canaries(built.folder.local_path(canaries_name(number)))
        assert len(canaries.items) == NUM_CANARIES
        hits = IndexShard.open(built, number).search(canaries.vectors_CD, 1).queries
        assert [found[0].item_id for found in hits] == [item.item_id for item in canaries.items]


def test_copies_are_no_canaries(gallery: Gallery) -> None:
    twins = np.tile(np.eye(3, dtype=np.float32)[:1], (5, 1))
    assert choose(twins, np.arange(5)) == []
    assert choose(np.concatenate([twins, np.eye(3, dtype=np.float32)[1:]]), np.arange(7)) == [5, 6]
    assert choose(np.empty((0, 3), np.float32), np.arange(0)) == []


def test_vectors_in_a_narrow_cone_are_canaries_only_where_nothing_scores_as_high() -> None:
    rng = np.random.default_rng(0)
    for spread in (1e-2, 1e-4, 1e-5):
        vectors_ND = unit_rows(1.0 + spread * rng.normal(size=(300, 8)))
        scores_NN = exact_scores(vectors_ND[:, None], vectors_ND[None])
        for row in choose(vectors_ND, np.arange(300)):
            assert (scores_NN[row] >= scores_NN[row, row]).sum() == 1


def test_an_index_of_an_earlier_version_still_opens(built: Artefact, tmp_path: Path) -> None:
    uri = copied(built, tmp_path / "index")
    path = Path(uri) / MANIFEST
    manifest = json.loads(path.read_text())
    del manifest["facts"]["ties"]
    path.write_text(json.dumps(manifest))
    sealed_again(uri)
    index = GalleryIndex.open(uri)
    index.check()
    assert index.num_items == NUM_PICTURES
