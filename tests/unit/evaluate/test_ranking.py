"""Ranking with content hashes against a full sort."""

import numpy as np
from chatsearch.evaluate.ranking import Gallery, rank
from chatsearch.index.vectors import unit_rows


def test_ranks_equal_a_sort_of_float64_cosines_with_exclusions(rng):
    names = [f"h{n}" for n in range(30)]
    gallery_ND, queries_QD = unit_rows(rng.normal(size=(30, 6))), unit_rows(rng.normal(size=(600, 6)))
    targets = rng.integers(0, 30, 600)
    excluded = [[names[j] for j in rng.integers(0, 30, 3)] + ["not in the gallery"] for _ in range(600)]
    ranks = rank(Gallery(names), gallery_ND, queries_QD, [names[t] for t in targets], excluded)
    for row, target in enumerate(targets):
        scores = gallery_ND.astype(float) @ queries_QD[row].astype(float)
        others = [j for j in range(30) if j != target and names[j] not in excluded[row]]
        assert ranks.pessimistic_Q[row] == 1 + sum(scores[j] >= scores[target] for j in others)


def test_pictures_that_look_the_same_tie_whatever_their_place(rng):
    vectors = unit_rows(np.repeat(rng.normal(size=(10, 5)), 7, axis=0))
    names = [f"h{n}" for n in range(70)]
    ranks = rank(Gallery(names), vectors, vectors, names)
    assert set((ranks.pessimistic_Q - ranks.optimistic_Q).tolist()) == {6}


def test_a_picture_shown_twice_is_one_candidate():
    gallery = Gallery(["a", "b", "a"])
    assert gallery.hashes == ["a", "b"]
    assert gallery.columns(["b", "c", "a"]) == [1, 0]
