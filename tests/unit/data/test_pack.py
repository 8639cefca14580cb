from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from chatsearch.data.example import IGNORED, Example
from chatsearch.data.pack import PADDING, Batch, fill_rows, pack
from chatsearch.errors import ConfigError, InputError
from hypothesis import given, settings
from hypothesis import strategies as st

LENGTH = 24
PAD_ID = 9


def make(number: int, size: int, image_at: int | None = None) -> Example:
    """Ids and labels that name the example and the position, so that a lost or moved one shows."""
    ids = np.arange(size, dtype=np.int32) + 1000 * (number + 1)
    labels = np.where(np.arange(size) % 3 == 0, IGNORED, ids + 1).astype(np.int32)
    images = [] if image_at is None else [image_at]
    return Example(
        document_id=f"d{number}",
        input_ids=ids,
        labels=labels,
        image_positions=np.array(images, dtype=np.int32),
        image_hashes=tuple(f"{number:064d}" for _ in images),
        image_is_target=np.array([number % 2 == 0 for _ in images], dtype=np.bool_),
        image_is_first=np.array([image_at == 2 for _ in images], dtype=np.bool_),
        image_is_read=np.ones(len(images), dtype=np.bool_),
    )


SIZES = st.lists(st.integers(4, LENGTH), min_size=1, max_size=12)


@given(SIZES)
@settings(deadline=None)
def test_every_sequence_lies_whole_in_one_row_and_nothing_else_does(sizes: list[int]) -> None:
    examples = [make(i, size, image_at=2 if i % 3 else None) for i, size in enumerate(sizes)]
    batch = pack(examples, range(len(sizes)), length=LENGTH, pad_id=PAD_ID)
    found = {}
    for row in range(len(batch.input_ids)):
        held = [d for d in np.unique(batch.document_ids[row]) if d != PADDING]
        assert held == list(range(len(held)))
        for number in held:
            span = np.flatnonzero(batch.document_ids[row] == number)
            assert (np.diff(span) == 1).all()
            assert batch.position_ids[row, span].tolist() == list(range(len(span)))
            index = int(batch.input_ids[row, span[0]]) // 1000 - 1
            found[index] = (batch.input_ids[row, span].tolist(), batch.labels[row, span].tolist())
    assert found == {i: (e.input_ids.tolist(), e.labels.tolist()) for i, e in enumerate(examples)}
    padding = batch.document_ids == PADDING
    assert (batch.input_ids[padding] == PAD_ID).all()
    assert (batch.labels[padding] == IGNORED).all()


@given(SIZES)
@settings(deadline=None)
def test_images_run_in_sample_order_and_point_at_their_slots(sizes: list[int]) -> None:
    examples = [make(i, size, image_at=3 if i % 2 else 2) for i, size in enumerate(sizes)]
    ordinals = [10 + i for i in range(len(sizes))]
    batch = pack(examples, ordinals, length=LENGTH, pad_id=PAD_ID)
    assert batch.image_sample.tolist() == ordinals
    assert batch.image_hashes == tuple(e.image_hashes[0] for e in examples)
    held = batch.input_ids[batch.image_row, batch.image_col]
    assert held.tolist() == [e.input_ids[e.image_positions[0]] for e in examples]
    assert batch.image_target.tolist() == [i % 2 == 0 for i in range(len(sizes))]


def test_rows_are_filled_where_first_fit_would_leave_gaps() -> None:
    """First-fit decreasing would put 8 beside 12, where 6 and 6 fit better."""
    rows = fill_rows([6, 8, 12, 16, 6], LENGTH)
    assert [sorted(row) for row in rows] == [[1, 3], [0, 2, 4]]
    batch = pack([make(i, size) for i, size in enumerate([6, 8, 12, 16, 6])], range(5), length=LENGTH, pad_id=PAD_ID)
    assert (batch.document_ids != PADDING).all()


@given(SIZES)
@settings(deadline=None)
def test_each_row_is_as_full_as_any_choice_could_make_it(sizes: list[int]) -> None:
    left = set(range(len(sizes)))
    for row in fill_rows(sizes, LENGTH):
        filled = sum(sizes[number] for number in row)
        assert sizes[row[0]] == max(sizes[number] for number in left)
        others = [sizes[number] for number in left - {row[0]}]
        sums = {sum(chosen) + sizes[row[0]] for n in range(len(others) + 1) for chosen in combinations(others, n)}
        assert filled == max(total for total in sums if total <= LENGTH)
        left -= set(row)
    assert not left


def test_no_examples_give_one_row_of_padding() -> None:
    batch = pack([], [], length=LENGTH, pad_id=PAD_ID, rejected=["d7: too long"])
    assert batch.input_ids.shape == (1, LENGTH)
    assert (batch.document_ids == PADDING).all()
    assert (batch.num_images, batch.rejected) == (0, ("d7: too long",))


def test_fixed_rows_and_limits() -> None:
    assert pack([make(0, 5)], [0], length=LENGTH, pad_id=0, num_rows=3).input_ids.shape == (3, LENGTH)
    with pytest.raises(ConfigError, match="need 2 rows of 24 positions, num_rows is 1"):
        pack([make(0, 20), make(1, 20)], [0, 1], length=LENGTH, pad_id=0, num_rows=1)
    with pytest.raises(InputError, match="'d0' takes 25 positions"):
        pack([make(0, 25)], [0], length=LENGTH, pad_id=0)


def test_arrays_carry_a_batch_whole() -> None:
    batch = pack([make(0, 9, image_at=2), make(1, 9)], [4, 5], length=LENGTH, pad_id=0, rejected=["ä: zu\0lang"])
    arrays = batch.to_arrays()
    assert all(isinstance(a, np.ndarray) and a.dtype != object for a in arrays.values())
    back = Batch.from_arrays(arrays)
    assert back.rejected == batch.rejected
    assert back.image_hashes == batch.image_hashes
    for name, array in arrays.items():
        np.testing.assert_array_equal(back.to_arrays()[name], array)
