"""Planned bytes against files that FAISS writes."""

from __future__ import annotations

import faiss
import numpy as np
import pytest
from chatsearch.index.plan import sizes


def vectors(n: int, d: int) -> np.ndarray:
    return np.random.default_rng(n + d).standard_normal((n, d), dtype=np.float32)


def written(index: faiss.Index) -> int:
    return len(faiss.serialize_index(index))


@pytest.mark.parametrize(("n", "d"), [(0, 8), (1, 8), (1000, 16), (777, 256)])
def test_flat_and_its_id_map_are_exact(n: int, d: int) -> None:
    index = faiss.IndexIDMap2(faiss.IndexFlatIP(d))
    index.add_with_ids(vectors(n, d), np.arange(n))
    assert written(index.index) == sizes.flat_bytes(n, d)
    assert written(index) == sizes.id_map_bytes(n, sizes.flat_bytes(n, d))


@pytest.mark.parametrize(("kind", "bits"), [(faiss.ScalarQuantizer.QT_8bit, 8), (faiss.ScalarQuantizer.QT_fp16, 16)])
@pytest.mark.parametrize(("n", "d"), [(40, 8), (1001, 64)])
def test_scalar_quantisers_are_exact(kind: int, bits: int, n: int, d: int) -> None:
    index = faiss.IndexScalarQuantizer(d, kind, faiss.METRIC_INNER_PRODUCT)
    index.train(vectors(n, d))
    index.add(vectors(n, d))
    assert written(index) == sizes.scalar_bytes(n, d, bits)


@pytest.mark.parametrize("refined", [False, True])
@pytest.mark.parametrize(("n", "d", "nlist"), [(600, 16, 4), (3000, 32, 16)])
def test_lists_of_product_codes_are_exact(n: int, d: int, nlist: int, refined: bool) -> None:
    index = faiss.IndexIVFPQ(faiss.IndexFlatIP(d), d, nlist, d // 4, 8, faiss.METRIC_INNER_PRODUCT)
    index.cp.min_points_per_centroid = index.pq.cp.min_points_per_centroid = 1
    index.pq.cp.niter = 2
    planned = sizes.pq_lists_bytes(n, d, nlist, d // 4)
    whole: faiss.Index = index
    if refined:
        exact = faiss.IndexScalarQuantizer(d, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT)
        whole = faiss.IndexRefine(index, exact)
        planned = sizes.refined_bytes(planned, sizes.scalar_bytes(n, d, 16))
    whole.train(vectors(n, d))
    whole.add(vectors(n, d))
    assert written(whole) == planned


@pytest.mark.parametrize("links", [16, 32])
def test_a_graph_is_within_one_percent(links: int) -> None:
    index = faiss.IndexHNSWFlat(16, links, faiss.METRIC_INNER_PRODUCT)
    index.add(vectors(3000, 16))
    assert sizes.graph_bytes(3000, 16, links) == pytest.approx(written(index), rel=0.01)
