"""Ranks and recall against brute force, and the paper's own rows."""

import numpy as np
import pytest
from chatsearch.errors import InputError
from chatsearch.evaluate.metrics import average, random_recalls, ranks_of_targets, recall_at, recalls
from hypothesis import given
from hypothesis import strategies as st

PAPER_ROWS = {
    # method: (t, i, m, printed Avg.)
    "random": ((0.02, 0.1, 0.2), (0.01, 0.05, 0.1), (0.01, 0.05, 0.1), 0.07),
    "CLIP-i": (None, (9.65, 20.96, 28.05), (9.65, 20.96, 28.05), 19.55),
    "CLIP-t": ((15.84, 34.46, 45.10), (14.15, 30.60, 39.56), (12.69, 27.19, 35.80), 28.38),
    "CLIP-ti": (None, (12.33, 26.81, 35.15), (13.18, 28.56, 37.07), 25.52),
    "FROMAGe": ((15.94, 36.76, 48.60), (12.56, 29.65, 39.65), (14.36, 32.58, 42.80), 30.32),
    "ChatSearcher": ((27.38, 52.48, 63.50), (35.54, 61.16, 71.57), (37.90, 64.22, 74.06), 54.20),
}


def ranks_by_hand(scores, targets, excluded):
    """The definition, one comparison at a time."""
    pessimistic, optimistic = [], []
    for row, target in enumerate(targets):
        others = [j for j in range(len(scores[row])) if j != target and j not in excluded[row]]
        pessimistic.append(1 + sum(scores[row][j] >= scores[row][target] for j in others))
        optimistic.append(1 + sum(scores[row][j] > scores[row][target] for j in others))
    return pessimistic, optimistic


@given(st.data())
def test_ranks_equal_brute_force_with_ties_and_exclusions(data):
    num_queries, num_gallery = data.draw(st.integers(1, 6)), data.draw(st.integers(1, 8))
    # Few distinct values, so ties are the rule.
    row = st.lists(st.sampled_from([-1.0, 0.0, 0.25, 1.0]), min_size=num_gallery, max_size=num_gallery)
    scores = data.draw(st.lists(row, min_size=num_queries, max_size=num_queries))
    targets = data.draw(st.lists(st.integers(0, num_gallery - 1), min_size=num_queries, max_size=num_queries))
    columns = st.lists(st.integers(0, num_gallery - 1), max_size=4)
    excluded = data.draw(st.lists(columns, min_size=num_queries, max_size=num_queries))
    ranks = ranks_of_targets(np.array(scores), targets, excluded)
    pessimistic, optimistic = ranks_by_hand(scores, targets, excluded)
    assert ranks.pessimistic_Q.tolist() == pessimistic
    assert ranks.optimistic_Q.tolist() == optimistic


def test_without_ties_the_rank_is_the_place_in_a_full_sort():
    rng = np.random.default_rng(0)
    scores_QN = rng.normal(size=(50, 40))
    targets = rng.integers(0, 40, 50)
    ranks = ranks_of_targets(scores_QN, targets)
    order_QN = np.argsort(-scores_QN, axis=1)
    assert ranks.pessimistic_Q.tolist() == [order_QN[q].tolist().index(t) + 1 for q, t in enumerate(targets)]
    assert np.array_equal(ranks.pessimistic_Q, ranks.optimistic_Q)


def test_equal_scores_are_worst_rank_and_best_rank():
    ranks = ranks_of_targets(np.zeros((1, 7)), [3])
    assert ranks.pessimistic_Q.tolist() == [7]
    assert ranks.optimistic_Q.tolist() == [1]


def test_excluding_the_reference_moves_the_target_up_but_never_drops_it():
    scores_QN = np.array([[0.9, 0.5, 0.1]])
    assert ranks_of_targets(scores_QN, [1]).pessimistic_Q.tolist() == [2]
    assert ranks_of_targets(scores_QN, [1], [[0]]).pessimistic_Q.tolist() == [1]
    assert ranks_of_targets(scores_QN, [1], [[0, 1]]).pessimistic_Q.tolist() == [1]


@pytest.mark.parametrize(
    ("scores", "targets"),
    [([[np.nan, 0.0]], [0]), ([[0.0, 1.0]], [2]), ([[0.0, 1.0]], [-1]), ([[0.0, 1.0]], [0, 1])],
)
def test_scores_that_have_no_rank_are_refused(scores, targets):
    with pytest.raises(InputError):
        ranks_of_targets(np.array(scores), targets)


def test_recall_counts_ranks_up_to_and_including_k():
    ranks_Q = np.array([1, 5, 6, 10, 11])
    assert recalls(ranks_Q) == {"R@1": 20.0, "R@5": 40.0, "R@10": 80.0}
    with pytest.raises(InputError, match="no queries"):
        recall_at(np.array([]), 1)


def test_random_row_of_the_paper():
    assert {k: round(v, 2) for k, v in random_recalls(5_000).items()} == {"R@1": 0.02, "R@5": 0.10, "R@10": 0.20}
    assert {k: round(v, 2) for k, v in random_recalls(10_000).items()} == {"R@1": 0.01, "R@5": 0.05, "R@10": 0.10}
    assert random_recalls(3)["R@10"] == 100.0


def test_a_random_ranking_reaches_the_expected_row():
    rng = np.random.default_rng(1)
    ranks = ranks_of_targets(rng.random((4_000, 100)), rng.integers(0, 100, 4_000))
    for name, expected in random_recalls(100).items():
        assert abs(recalls(ranks.pessimistic_Q)[name] - expected) < 4 * np.sqrt(expected * (100 - expected) / 4_000)


@pytest.mark.parametrize("method", PAPER_ROWS)
def test_average_of_the_paper(method):
    *rows, printed = PAPER_ROWS[method]
    cells = {
        task: None if row is None else dict(zip(("R@1", "R@5", "R@10"), row, strict=True))
        for task, row in zip("tim", rows, strict=True)
    }
    assert abs(average(cells) - printed) <= 0.005 + 1e-9
