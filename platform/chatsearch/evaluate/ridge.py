"""Bag-of-words ridge regression from captions to pictures: what the frozen features give away for nothing.

Words of a caption, weighted by rarity (idf) and scaled to unit length, predict the centred unit f_CLS of its picture.
A query is ranked by the cosine between the prediction and the pictures' centred features.

Shape suffixes: C captions, V words, N pictures, D width of f_CLS.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from chatsearch.errors import InputError
from chatsearch.evaluate.config import RidgeConfig
from chatsearch.evaluate.metrics import CUTOFFS, ranks_of_targets, recall_at
from chatsearch.index.vectors import Float32, unit_rows

_WORD = re.compile(r"\w+")
_BLOCK = 4096


def words(text: str) -> list[str]:
    """Lower-case words of a text, each once."""
    return sorted(set(_WORD.findall(text.lower())))


@dataclass(frozen=True)
class Captioned:
    """Captions and the picture each belongs to."""

    captions: Sequence[str]
    pictures_C: NDArray[np.int64]
    """Row of each caption's picture in ``features_ND``."""
    features_ND: Float32
    """Raw f_CLS."""


@dataclass(frozen=True)
class BagOfWordsRidge:
    """A fitted regression."""

    columns: dict[str, int]
    """Column of each known word."""
    idf_V: Float32
    mean_words_V: Float32
    mean_D: Float32
    weights_VD: Float32
    penalty: float
    """lambda."""

    @property
    def num_words(self) -> int:
        """V."""
        return len(self.columns)

    def queries(self, captions: Sequence[str]) -> Float32:
        """Unit predictions (C, D). All captions without a known word get the same one."""
        blocks = [
            _bags(captions[start : start + _BLOCK], self.columns, self.idf_V) - self.mean_words_V
            for start in range(0, len(captions), _BLOCK)
        ]
        return _directions(np.concatenate([block_CV @ self.weights_VD for block_CV in blocks]))

    def gallery(self, features_ND: Float32) -> Float32:
        """Unit centred features (N, D)."""
        return _directions(unit_rows(features_ND) - self.mean_D)


def fit(train: Captioned, config: RidgeConfig, val: Captioned | None = None) -> BagOfWordsRidge:
    """Fit on the train split; lambda is chosen on ``val`` if there is one.

    Raises:
        InputError: no word occurs often enough.
    """
    counts = Counter(word for caption in train.captions for word in words(caption))
    kept = [(word, n) for word, n in sorted(counts.items(), key=lambda c: (-c[1], c[0])) if n >= config.min_count]
    kept = kept[: config.max_words]
    if not kept:
        raise InputError(
            f"No word occurs in {config.min_count} captions of the train split: ridge regression has nothing to learn from."
        )
    columns = {word: column for column, (word, _) in enumerate(kept)}
    idf_V = np.log(1.0 + len(train.captions) / np.array([n for _, n in kept], np.float64)).astype(np.float32)
    unit_ND = unit_rows(train.features_ND)
    mean_D = unit_ND[train.pictures_C].mean(axis=0)
    gram_VV, cross_VD, mean_words_V = _normal_equations(train, columns, idf_V, unit_ND - mean_D)

    def solved(penalty: float) -> BagOfWordsRidge:
        weights_VD = np.linalg.solve(gram_VV + penalty * np.eye(len(kept), dtype=np.float32), cross_VD)
        return BagOfWordsRidge(columns, idf_V, mean_words_V, mean_D, weights_VD, penalty)

    if val is None:
        return solved(config.penalty_without_val)
    return max((solved(penalty) for penalty in config.penalties), key=lambda ridge: _mean_recall(ridge, val))


def _directions(rows_ND: Float32) -> Float32:
    """Unit rows; a row of zeros (a train split of one picture) stays so and ties with everything."""
    return (rows_ND / np.maximum(np.linalg.norm(rows_ND, axis=1, keepdims=True), 1e-12)).astype(np.float32)


def _mean_recall(ridge: BagOfWordsRidge, data: Captioned) -> float:
    scores_CN = ridge.queries(data.captions) @ ridge.gallery(data.features_ND).T
    ranks = ranks_of_targets(scores_CN, data.pictures_C)
    return sum(recall_at(ranks.pessimistic_Q, k) for k in CUTOFFS) / len(CUTOFFS)


def _bags(captions: Sequence[str], columns: dict[str, int], idf_V: Float32) -> Float32:
    """Rows of unit length, (C, V); a caption without a known word is a row of zeros."""
    bags_CV = np.zeros((len(captions), len(columns)), np.float32)
    for row, caption in enumerate(captions):
        known = [columns[word] for word in words(caption) if word in columns]
        bags_CV[row, known] = idf_V[known]
    lengths_C1 = np.linalg.norm(bags_CV, axis=1, keepdims=True)
    return bags_CV / np.maximum(lengths_C1, 1e-12)


def _normal_equations(
    train: Captioned, columns: dict[str, int], idf_V: Float32, centred_ND: Float32
) -> tuple[Float32, Float32, Float32]:
    """X^T X and X^T Y of centred words and features, and the mean of the words."""
    num_words, num_captions = len(columns), len(train.captions)
    gram_VV = np.zeros((num_words, num_words), np.float32)
    cross_VD = np.zeros((num_words, centred_ND.shape[1]), np.float32)
    sum_V = np.zeros(num_words, np.float64)
    sum_D = np.zeros(centred_ND.shape[1], np.float64)
    for start in range(0, num_captions, _BLOCK):
        bags_CV = _bags(train.captions[start : start + _BLOCK], columns, idf_V)
        targets_CD = centred_ND[train.pictures_C[start : start + _BLOCK]]
        gram_VV += bags_CV.T @ bags_CV
        cross_VD += bags_CV.T @ targets_CD
        sum_V += bags_CV.sum(axis=0, dtype=np.float64)
        sum_D += targets_CD.sum(axis=0, dtype=np.float64)
    mean_V = sum_V / num_captions
    gram_VV -= (num_captions * np.outer(mean_V, mean_V)).astype(np.float32)
    cross_VD -= np.outer(mean_V, sum_D).astype(np.float32)
    return gram_VV, cross_VD, mean_V.astype(np.float32)
