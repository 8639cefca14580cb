"""Features dealt to shards: every row once to whoever takes it, in order, however the parts are cut."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from chatsearch.errors import CorruptArtefactError
from chatsearch.index.features import FeatureStore
from chatsearch.index.projection import Projection
from chatsearch.index.shares import deal, project_share
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.index.synthetic import Gallery, write_store

Make = Callable[..., Gallery]


@given(
    rows_per_part=st.lists(st.integers(0, 9), min_size=1, max_size=8),
    at_least=st.integers(1, 20),
    seed=st.integers(0, 99),
)
def test_shares_hold_every_taken_row_once_and_in_order(rows_per_part: list[int], at_least: int, seed: int) -> None:
    num_rows, rng = sum(rows_per_part), np.random.default_rng(seed)
    taken = [np.flatnonzero(rng.random(num_rows) < chance) for chance in (0.0, 0.3, 1.0)]
    parts = [f"part-{n}" for n in range(len(rows_per_part))]
    shares = list(deal(parts, rows_per_part, taken, at_least))
    assert [name for share in shares for name in share.parts] == parts
    sizes = [sum(rows_per_part[parts.index(name)] for name in share.parts) for share in shares]
    assert all(size >= at_least for size in sizes[:-1])
    firsts = np.cumsum([0, *sizes])
    for number, rows_M in enumerate(taken):
        dealt = [share.rows[number] + first for share, first in zip(shares, firsts, strict=False)]
        np.testing.assert_array_equal(np.concatenate(dealt), rows_M)


def test_what_a_share_gives_is_what_the_whole_store_gives(make_gallery: Make) -> None:
    gallery = make_gallery(50)
    store = FeatureStore.open(gallery.features)
    taken = [np.arange(0, 50, 3), np.array([7, 8, 49])]
    whole_Nd = Projection.open(gallery.model).apply(store.matrix_ND)
    pieces = [
        project_share(gallery.features, gallery.model, share)
        for share in deal(store.parts, store.rows_per_part, taken, 1)
    ]
    assert len(pieces) == len(store.parts) == 2
    for number, rows_M in enumerate(taken):
        np.testing.assert_array_equal(np.concatenate([piece[number] for piece in pieces]), whole_Nd[rows_M])


def test_a_picture_without_a_direction_is_named_with_its_part(make_gallery: Make) -> None:
    gallery = make_gallery(10)
    matrix_ND = gallery.matrix_ND.copy()
    matrix_ND[8] = np.nan
    store = FeatureStore(write_store(gallery.features + "-nan", matrix_ND))
    (share,) = deal(store.parts, store.rows_per_part, [np.arange(10)])
    with pytest.raises(
        CorruptArtefactError, match=rf"1 of 5 pictures in features/part-00001\.parquet of .*{store.hashes[8][:16]}"
    ):
        project_share(store.uri, gallery.model, share)
