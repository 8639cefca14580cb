"""The best of all rows, by however many threads FAISS takes."""

from __future__ import annotations

import threading

import faiss
import numpy as np
import pytest
from chatsearch.index.exhaustive import limit_threads, nearest


@pytest.mark.parametrize("num_queries", [1, 2, 40])
def test_answers_do_not_depend_on_threads_and_their_number_stays_as_it_was(num_queries: int) -> None:
    rng = np.random.default_rng(0)
    rows_ND = rng.standard_normal((5000, 8)).astype(np.float32)
    rows_ND /= np.linalg.norm(rows_ND, axis=1, keepdims=True)
    queries_PD = rows_ND[rng.integers(len(rows_ND), size=num_queries)]
    wanted_PK = np.argsort(-(queries_PD.astype(np.float64) @ rows_ND.T.astype(np.float64)), axis=1)[:, :12]
    before = faiss.omp_get_max_threads()
    try:
        for threads in (1, 3):
            limit_threads(threads)
            found_PK, bound_P = nearest(rows_ND, None, queries_PD, 12)
            np.testing.assert_array_equal(found_PK, wanted_PK)
            last_P = np.einsum("pd,pd->p", rows_ND[wanted_PK[:, -1]].astype(np.float64), queries_PD)
            assert (bound_P >= last_P).all()
            assert faiss.omp_get_max_threads() == threads
    finally:
        limit_threads(before)


def test_a_limit_is_the_thread_s_own() -> None:
    before, found = faiss.omp_get_max_threads(), []

    def other() -> None:
        limit_threads(before + 3)
        found.append(faiss.omp_get_max_threads())

    thread = threading.Thread(target=other)
    thread.start()
    thread.join()
    assert found == [before + 3]
    assert faiss.omp_get_max_threads() == before
