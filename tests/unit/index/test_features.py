"""Reading feature stores, the item table and the shared arithmetic."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from chatsearch.errors import CorruptArtefactError, GalleryError, IncompleteArtefactError, MissingInputError
from chatsearch.index.features import FeatureStore, part_name
from chatsearch.index.items import ItemTable, check_item_ids, items_as_table, read_items, write_items
from chatsearch.index.vectors import exact_scores, score_error, unit_rows
from chatsearch.types import GalleryItem
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.index.synthetic import picture_hash, write_store


@pytest.mark.parametrize("num_parts", [1, 3])
def test_what_was_written_is_read(tmp_path: Path, num_parts: int) -> None:
    rng = np.random.default_rng(0)
    matrix_ND = rng.normal(size=(10, 4)).astype(np.float32)
    tokens_NTE = rng.normal(size=(10, 3, 2)).astype(np.float16)
    write_store(str(tmp_path / "s"), matrix_ND, tokens_NTE=tokens_NTE, num_parts=num_parts)
    store = FeatureStore.open(str(tmp_path / "s"), verify=True)
    assert store.hashes == [picture_hash(n) for n in range(10)]
    np.testing.assert_array_equal(store.matrix_ND, matrix_ND)
    assert store.matrix_ND.dtype == np.float32
    assert store.tokens_NTE is not None
    np.testing.assert_array_equal(store.tokens_NTE, tokens_NTE)
    assert store.tokens_NTE.dtype == np.float16
    assert len(store) == 10
    assert store.row_of(picture_hash(7)) == 7
    np.testing.assert_array_equal(store.get(picture_hash(7)), matrix_ND[7])
    assert [item.item_id for item in store.items()] == [f"item-{n:04d}" for n in range(10)]
    with pytest.raises(ValueError, match="read-only"):
        store.matrix_ND[0] = 0


def test_half_precision_is_read_as_float32(tmp_path: Path) -> None:
    rows_ND = np.random.default_rng(0).normal(size=(10, 4)).astype(np.float16)
    write_store(str(tmp_path / "s"), rows_ND, num_parts=3)
    schema = pq.read_schema(tmp_path / "s" / part_name(0))
    assert schema.field("f_cls").type == pa.list_(pa.float16(), 4)
    store = FeatureStore.open(str(tmp_path / "s"))
    assert store.matrix_ND.dtype == np.float32
    np.testing.assert_array_equal(store.matrix_ND, rows_ND.astype(np.float32))


def test_a_store_without_tokens_says_none(tmp_path: Path) -> None:
    write_store(str(tmp_path / "s"), np.ones((3, 4)))
    assert FeatureStore.open(str(tmp_path / "s")).tokens_NTE is None


def test_the_features_are_plain_parquet(tmp_path: Path) -> None:
    artefact = write_store(str(tmp_path / "s"), np.eye(4), num_parts=1)
    schema = pq.read_schema(artefact.folder.path(part_name(0)))
    assert schema.field("f_cls").type == pa.list_(pa.float32(), 4)
    assert schema.field("content_hash").type == pa.string()


def test_an_unknown_picture_is_named(tmp_path: Path) -> None:
    store = FeatureStore(write_store(str(tmp_path / "s"), np.eye(4)))
    assert picture_hash(3) in store
    assert "f" * 64 not in store
    with pytest.raises(MissingInputError, match=r"ffffffffffffffff is not among the 4.*jobs\.embed"):
        store.get("f" * 64)


def test_a_missing_or_cut_store_is_named(tmp_path: Path) -> None:
    with pytest.raises(IncompleteArtefactError, match="nothing is there"):
        FeatureStore.open(str(tmp_path / "none"))
    artefact = write_store(str(tmp_path / "s"), np.eye(4), num_parts=1)
    path = Path(artefact.folder.path(part_name(0)))
    data = path.read_bytes()
    path.write_bytes(data[:-10])
    with pytest.raises(CorruptArtefactError, match=part_name(0)):
        FeatureStore.open(artefact.uri)
    path.write_bytes(b"x" * len(data))
    with pytest.raises(CorruptArtefactError, match="is damaged"):
        _ = FeatureStore.open(artefact.uri).matrix_ND
    with pytest.raises(CorruptArtefactError, match="is damaged"):
        FeatureStore.open(artefact.uri, verify=True)


@given(
    st.lists(
        st.builds(
            GalleryItem,
            st.text(st.characters(exclude_categories=["Cs"]), min_size=1),
            st.just("a" * 64),
            st.dictionaries(
                st.text(st.characters(exclude_categories=["Cs"])), st.text(st.characters(exclude_categories=["Cs"]))
            ),
        ),
        unique_by=lambda item: item.item_id,
        max_size=8,
    )
)
def test_items_survive_the_table_and_keep_their_order(
    tmp_path_factory: pytest.TempPathFactory, items: list[GalleryItem]
) -> None:
    path = str(tmp_path_factory.mktemp("items") / "t.parquet")
    write_items(path, items, list(range(len(items))))
    table = read_items(path)
    assert list(table) == items
    assert table.faiss_ids_N is not None
    assert table.faiss_ids_N.tolist() == list(range(len(items)))
    # Ties are broken as Python orders strings.
    by_order = [table.item(row).item_id for row in np.argsort(table.id_order())]
    assert by_order == sorted(item.item_id for item in items)


def test_rows_of_an_item_table_are_what_was_written_wherever_it_was_cut_or_sent() -> None:
    items = [
        GalleryItem(f"item-{n}é" * (n % 3 + 1), "0" * 64, {"caption": 'naïve, "quoted"\n' * (n % 2)}) for n in range(9)
    ]
    whole = ItemTable(items_as_table(items))
    cut = ItemTable(items_as_table([*items[:2], *items]).slice(2))
    sent = copy.deepcopy(cut)  # as pickle does it
    rows = np.array([8, 0, 3, 3, 5])
    for table in (whole, cut, sent):
        assert table.items(rows) == [items[row] for row in rows]
        assert [table.item(row) for row in range(9)] == items
    assert whole.items(rows[:0]) == ItemTable(items_as_table([])).items(rows[:0]) == []


def test_a_table_of_something_else_is_named(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"x": [1]}), path)
    with pytest.raises(CorruptArtefactError, match="is not an item table"):
        read_items(str(path))
    path.write_bytes(b"not parquet")
    with pytest.raises(CorruptArtefactError, match="is not an item table"):
        read_items(str(path))


def test_repeated_ids_are_found() -> None:
    check_item_ids(["a", "b"])
    with pytest.raises(GalleryError, match="'a' appears more than once"):
        check_item_ids(["a", "b", "a"])


@given(st.integers(1, 300), st.integers(1, 30), st.integers(0, 2**32 - 1))
def test_exact_scores_do_not_depend_on_the_company(dimension: int, num_rows: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows_KD = unit_rows(rng.normal(size=(num_rows, dimension)))
    query_D = unit_rows(rng.normal(size=(1, dimension)))[0]
    together = exact_scores(rows_KD, query_D)
    alone = [exact_scores(row_D[None], query_D)[0] for row_D in rows_KD]
    assert together.tolist() == alone
    batched = exact_scores(np.stack([rows_KD, rows_KD]), query_D)
    assert batched.tolist() == [alone, alone]
    # The bound that decides when enough candidates were fetched holds for float32 arithmetic.
    assert np.abs(rows_KD @ query_D - together).max() <= score_error(dimension)
