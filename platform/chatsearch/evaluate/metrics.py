"""Ranks and recall from plain score matrices.

Shape suffixes: Q queries, N gallery entries, K cut-offs. Scores are similarities: higher is better.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from chatsearch.errors import InputError

CUTOFFS = (1, 5, 10)
"""The K of R@K in the paper."""


@dataclass(frozen=True)
class Ranks:
    """Rank of each query's target, starting at 1, for both ways to read a tie."""

    pessimistic_Q: NDArray[np.int64]
    """1 + number of other entries with a score at or above the target's. The one we report."""
    optimistic_Q: NDArray[np.int64]
    """1 + number of other entries with a score above the target's."""

    @property
    def num_queries(self) -> int:
        """How many queries were ranked."""
        return len(self.pessimistic_Q)

    def select(self, keep_Q: NDArray[np.bool_]) -> Ranks:
        """The ranks of some of the queries."""
        return Ranks(self.pessimistic_Q[keep_Q], self.optimistic_Q[keep_Q])


def ranks_of_targets(
    scores_QN: NDArray[np.floating],
    target_Q: Sequence[int] | NDArray[np.integer],
    excluded: Sequence[Sequence[int]] | None = None,
) -> Ranks:
    """Rank every query's target among the gallery.

    Args:
        scores_QN: similarities, higher is better; finite.
        target_Q: column of each query's target.
        excluded: for each query, columns that do not compete (its own context images). A target is
            never excluded from its own ranking.

    Raises:
        InputError: a score is NaN or infinite, a column is out of range, or the lengths disagree.
    """
    scores_QN = np.asarray(scores_QN)
    targets_Q = np.asarray(target_Q, dtype=np.int64)
    num_queries, num_gallery = scores_QN.shape
    if targets_Q.shape != (num_queries,) or (excluded is not None and len(excluded) != num_queries):
        raise InputError(f"{num_queries} rows of scores need as many targets (and exclusions); got {len(targets_Q)}.")
    if num_queries and not (targets_Q.min() >= 0 and targets_Q.max() < num_gallery):
        raise InputError(f"A target column lies outside the gallery of {num_gallery} entries.")
    if not np.isfinite(scores_QN).all():
        raise InputError("A score is NaN or infinite, so it has no rank. Check the model and the features.")
    target_score_Q1 = np.take_along_axis(scores_QN, targets_Q[:, None], axis=1)
    at_or_above_QN = scores_QN >= target_score_Q1
    above_QN = scores_QN > target_score_Q1
    for row, columns in enumerate(excluded or ()):
        dropped = [column for column in columns if column != targets_Q[row]]
        at_or_above_QN[row, dropped] = False
        above_QN[row, dropped] = False
    # The target is at or above itself: that one is the "1 +".
    return Ranks(at_or_above_QN.sum(1, dtype=np.int64), above_QN.sum(1, dtype=np.int64) + 1)


def recall_at(ranks_Q: NDArray[np.integer], k: int) -> float:
    """R@K: percent of queries whose target is among the first ``k``.

    Raises:
        InputError: there is no query; a mean of nothing is not 0.
    """
    if len(ranks_Q) == 0:
        raise InputError(f"R@{k} of no queries is not defined: the split or sub-task is empty.")
    return 100.0 * float(np.mean(np.asarray(ranks_Q) <= k))


def recalls(ranks_Q: NDArray[np.integer], cutoffs: Sequence[int] = CUTOFFS) -> dict[str, float]:
    """R@K in percent for each cut-off, under the names ``R@1``, ``R@5``, ..."""
    return {f"R@{k}": recall_at(ranks_Q, k) for k in cutoffs}


def random_recalls(num_gallery: int, cutoffs: Sequence[int] = CUTOFFS) -> dict[str, float]:
    """What a uniformly random ranking of ``num_gallery`` entries reaches in expectation: 100 K / N percent."""
    if num_gallery < 1:
        raise InputError("The gallery is empty: nothing can be ranked.")
    return {f"R@{k}": 100.0 * min(k, num_gallery) / num_gallery for k in cutoffs}


def average(cells: Mapping[str, Mapping[str, float] | None]) -> float:
    """The paper's Avg.: the plain mean of all R@K cells a method has.

    ``cells`` maps a sub-task to its recalls, or to None where the method does not exist (CLIP-i on t).
    Nine cells for most methods, six for those without t.
    """
    values = [value for recalls_of_task in cells.values() if recalls_of_task for value in recalls_of_task.values()]
    if not values:
        raise InputError("Avg. of no cells is not defined: the method was run on no sub-task.")
    return float(np.mean(values))
