"""usearch: one graph, over numbers of the kind that it chooses for the machine."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from chatsearch.index.vectors import Float32
from usearch.index import Index

from tests.benchmarks.peers.engine import Ask, Engine, K, Parameters, main, timed


class Usearch(Engine):
    """``Index(connectivity, expansion_add)``, ``expansion_search``."""

    version = version("usearch")

    def build(self, vectors_ND: Float32, folder: Path, parameters: Parameters) -> float:
        def add() -> None:
            index = Index(ndim=vectors_ND.shape[1], metric="ip", **parameters)
            index.add(np.arange(len(vectors_ND)), vectors_ND)  # with all cores
            index.save(str(folder / "index.usearch"))

        return timed(add)

    def open(self, folder: Path) -> None:
        index = Index.restore(str(folder / "index.usearch"))
        assert index is not None, f"{folder} holds no index"
        self._index = index

    def asker(self, parameters: Parameters) -> Ask:
        self._index.expansion_search = parameters["ef"]
        return lambda query_1D: self._index.search(query_1D[0], K, threads=1)

    def rows(self, found: Any) -> list[int]:
        return [int(row) for row in found.keys]

    def facts(self) -> dict[str, Any]:
        return {**super().facts(), "settings": f"stored as {self._index.dtype}"}


if __name__ == "__main__":
    main(Usearch())
