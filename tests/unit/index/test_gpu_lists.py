"""Lists that another flat index learns and chooses: on a CPU it must give the very same bytes, on GPUs an index as good."""

from __future__ import annotations

import faiss
import numpy as np
import pytest
from chatsearch.index import approximate
from chatsearch.index.approximate import filled, trained
from chatsearch.index.gpu_lists import flat_on_gpus

KINDS = ["ivf-pq", "ivf-opq", "ivf-rabitq"]


def rows() -> np.ndarray:
    rng = np.random.default_rng(0)
    rows_ND = rng.normal(size=(3000, 32)).astype(np.float32)
    return rows_ND / np.linalg.norm(rows_ND, axis=1, keepdims=True)


@pytest.mark.parametrize("kind", KINDS)
def test_a_flat_index_beside_learns_and_fills_the_same_lists(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = filled(trained(kind, rows(), 20), rows())
    asked = []

    def flat_on_cpu(dimension: int) -> faiss.Index:
        asked.append(dimension)
        return faiss.IndexFlatIP(dimension)

    monkeypatch.setattr(approximate, "flat_on_gpus", flat_on_cpu)
    beside = filled(trained(kind, rows(), 20), rows())
    assert asked == [32, 32]
    assert beside.ntotal == 3000
    np.testing.assert_array_equal(faiss.serialize_index(beside), faiss.serialize_index(alone))


@pytest.mark.gpu
@pytest.mark.parametrize("kind", KINDS)
def test_gpus_make_an_index_that_finds_as_much(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if flat_on_gpus(32) is None:
        pytest.skip("FAISS sees no GPU")
    on_gpus = filled(trained(kind, rows(), 20), rows())
    monkeypatch.setattr(approximate, "flat_on_gpus", lambda dimension: None)
    on_cpu = filled(trained(kind, rows(), 20), rows())
    wanted = rows()[:200] @ rows().T
    shares = []
    for index in (on_gpus, on_cpu):
        faiss.extract_index_ivf(index).nprobe = 20
        found = index.search(rows()[:200], 20)[1]
        shares.append(np.mean([len({*a} & {*np.argsort(-b)[:10]}) / 10 for a, b in zip(found, wanted, strict=True)]))
    assert shares[0] == pytest.approx(shares[1], abs=0.05)
