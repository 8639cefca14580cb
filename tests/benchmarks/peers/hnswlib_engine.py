"""hnswlib: one graph over float32 rows."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Any

import hnswlib
from chatsearch.index.vectors import Float32

from tests.benchmarks.peers.engine import Ask, Engine, K, Parameters, main, num_cores, timed


class Hnswlib(Engine):
    """``init_index(M, ef_construction)``, ``set_ef``."""

    version = version("hnswlib")

    def build(self, vectors_ND: Float32, folder: Path, parameters: Parameters) -> float:
        index = hnswlib.Index(space="ip", dim=vectors_ND.shape[1])

        def add() -> None:
            index.init_index(max_elements=len(vectors_ND), random_seed=0, **parameters)
            index.add_items(vectors_ND, num_threads=num_cores())

        took = timed(add)
        (folder / "dimension").write_text(str(vectors_ND.shape[1]))
        return took + timed(lambda: index.save_index(str(folder / "index.bin")))

    def open(self, folder: Path) -> None:
        self._index = hnswlib.Index(space="ip", dim=int((folder / "dimension").read_text()))
        self._index.load_index(str(folder / "index.bin"))
        self._index.set_num_threads(1)

    def asker(self, parameters: Parameters) -> Ask:
        self._index.set_ef(parameters["ef"])
        return lambda query_1D: self._index.knn_query(query_1D, k=K)

    def rows(self, found: Any) -> list[int]:
        return [int(row) for row in found[0][0]]


if __name__ == "__main__":
    main(Hnswlib())
