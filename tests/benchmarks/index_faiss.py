"""Plain FAISS as one in-process index of its factory, set as its wiki's guidelines have it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import faiss
import numpy as np
from chatsearch.index.approximate import num_lists, sample_rows
from chatsearch.index.vectors import Float32

from tests.benchmarks.peers.engine import Ask, Engine, K, Parameters, main, timed

_FAISS: Any = faiss
"""Its annotations are those of C++: they know neither keywords nor arrays."""


class Faiss(Engine):
    """``index_factory`` of the string named; ``IVF`` stands for as many lists as one of our shards has, trained on as many rows."""

    version = faiss.__version__

    def build(self, vectors_ND: Float32, folder: Path, parameters: Any) -> float:
        lists = num_lists(len(vectors_ND))
        factory = parameters["factory"].replace("IVF,", f"IVF{lists},")
        index: Any = faiss.index_factory(vectors_ND.shape[1], factory, faiss.METRIC_INNER_PRODUCT)
        if "ef_construction" in parameters:
            index.hnsw.efConstruction = parameters["ef_construction"]
        sample_SD = np.ascontiguousarray(vectors_ND[sample_rows(len(vectors_ND), lists)])

        def add() -> None:
            index.train(sample_SD)
            index.add(vectors_ND)
            faiss.write_index(index, str(folder / "index.faiss"))

        return timed(add)

    def open(self, folder: Path) -> None:
        self._index: Any = faiss.read_index(str(folder / "index.faiss"))

    def asker(self, parameters: Parameters) -> Ask:
        said = _parameters(parameters)
        return lambda query_1D: self._index.search(query_1D, K, params=said)

    def rows(self, found: Any) -> list[int]:
        return [int(row) for row in found[1][0]]


def _parameters(said: Parameters) -> Any:
    if "ef_search" in said:
        return _FAISS.SearchParametersHNSW(efSearch=said["ef_search"])
    if "nprobe" not in said:
        return None
    lists = _FAISS.SearchParametersIVF(nprobe=said["nprobe"])
    if "k_factor" not in said:
        return lists
    return _FAISS.IndexRefineSearchParameters(k_factor=said["k_factor"], base_index_params=lists)


if __name__ == "__main__":
    main(Faiss())
