"""Ridge regression against a closed form in double precision, and on worlds where the answer is known."""

import numpy as np
import pytest
from chatsearch.errors import InputError
from chatsearch.evaluate.config import RidgeConfig
from chatsearch.evaluate.metrics import ranks_of_targets, recall_at
from chatsearch.evaluate.ridge import Captioned, fit, words

WORDS = [f"word{n}" for n in range(40)]


def make_data(rng, num_pictures, directions, *, noise=0.1, captions_each=2):
    """Pictures are sums of the directions of their words; each caption names most of the words."""
    contents = [rng.choice(len(WORDS), size=5, replace=False) for _ in range(num_pictures)]
    features = np.stack([directions[c].sum(0) for c in contents]) + 3.0
    features += noise * rng.normal(size=features.shape)
    captions = [" ".join(WORDS[w] for w in rng.permutation(c)[:4]) for c in contents for _ in range(captions_each)]
    pictures = np.repeat(np.arange(num_pictures), captions_each)
    return Captioned(captions, pictures, features.astype(np.float32))


def test_it_finds_pictures_that_are_linear_in_their_words(rng):
    directions = rng.normal(size=(len(WORDS), 32))
    train, val, test = (make_data(rng, n, directions) for n in (300, 40, 100))
    ridge = fit(train, RidgeConfig(), val)
    scores = ridge.queries(test.captions) @ ridge.gallery(test.features_ND).T
    ranks = ranks_of_targets(scores, test.pictures_C).pessimistic_Q
    assert recall_at(ranks, 1) > 80
    assert ridge.penalty in RidgeConfig().penalties


def test_weights_solve_the_normal_equations(rng):
    directions = rng.normal(size=(len(WORDS), 8))
    train = make_data(rng, 60, directions)
    ridge = fit(train, RidgeConfig(penalty_without_val=2.0))
    idf = {w: np.log(1 + len(train.captions) / sum(w in c.split() for c in train.captions)) for w in WORDS}
    x = np.array([[idf[w] * (w in c.split()) for w in ridge.columns] for c in train.captions])
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    y = train.features_ND.astype(np.float64)
    y = (y / np.linalg.norm(y, axis=1, keepdims=True))[train.pictures_C]
    x_mean, y_mean = x.mean(0), y.mean(0)
    # Ridge as least squares with rows of sqrt(lambda) below.
    stacked_x = np.vstack([x - x_mean, np.sqrt(2.0) * np.eye(x.shape[1])])
    stacked_y = np.vstack([y - y_mean, np.zeros((x.shape[1], y.shape[1]))])
    expected = np.linalg.lstsq(stacked_x, stacked_y, rcond=None)[0]
    np.testing.assert_allclose(ridge.weights_VD, expected, atol=2e-4)
    predicted = (x[:5] - x_mean) @ expected
    predicted /= np.linalg.norm(predicted, axis=1, keepdims=True)
    np.testing.assert_allclose(ridge.queries(train.captions[:5]), predicted, atol=2e-3)


def test_lambda_is_the_one_that_val_likes_best(rng):
    directions = rng.normal(size=(len(WORDS), 6))
    train, val = make_data(rng, 30, directions, noise=3.0), make_data(rng, 80, directions, noise=3.0)
    config = RidgeConfig(penalties=(0.001, 1.0, 1000.0))

    def quality(ridge):
        ranks = ranks_of_targets(ridge.queries(val.captions) @ ridge.gallery(val.features_ND).T, val.pictures_C)
        return sum(recall_at(ranks.pessimistic_Q, k) for k in (1, 5, 10))

    each = {p: quality(fit(train, config.replace(penalty_without_val=p))) for p in config.penalties}
    assert quality(fit(train, config, val)) == max(each.values())


def test_rare_words_are_left_out_and_unknown_ones_do_not_break(rng):
    directions = rng.normal(size=(len(WORDS), 8))
    train = make_data(rng, 50, directions)
    train = Captioned([*train.captions[:-1], "unicorn"], train.pictures_C, train.features_ND)
    ridge = fit(train, RidgeConfig())
    assert "unicorn" not in ridge.columns
    queries = ridge.queries(["nothing of this", "", "ünïcörn 123"])
    assert np.isfinite(queries).all()
    np.testing.assert_allclose(queries[0], queries[1])
    assert fit(train, RidgeConfig(max_words=7)).num_words == 7


def test_nothing_to_learn_from_is_an_error_and_one_picture_is_a_tie():
    alone = Captioned(["a dog"], np.array([0]), np.ones((1, 4), np.float32))
    with pytest.raises(InputError, match="No word occurs"):
        fit(alone, RidgeConfig())
    ridge = fit(alone, RidgeConfig(min_count=1))
    scores = ridge.queries(["a dog", "a cat"]) @ ridge.gallery(np.eye(4, dtype=np.float32)).T
    assert ranks_of_targets(scores, [0, 1]).pessimistic_Q.tolist() == [4, 4]


def test_words():
    assert words("A dog's Dog, 2 dogs .") == ["2", "a", "dog", "dogs", "s"]
