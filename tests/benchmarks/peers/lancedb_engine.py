"""LanceDB: a table with a graph index over codes of 8 bits; what it proposes is compared anew by the table's vectors."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Any

import lancedb
import numpy as np
import pyarrow as pa
from chatsearch.index.vectors import Float32
from lancedb.index import HnswSq

from tests.benchmarks.peers.engine import Ask, Engine, K, Parameters, main, timed

TABLE = "vectors"


class LanceDB(Engine):
    """``HnswSq`` of one partition, ``ef`` and ``refine_factor``."""

    version = version("lancedb")

    def build(self, vectors_ND: Float32, folder: Path, parameters: Parameters) -> float:
        flat = pa.FixedSizeListArray.from_arrays(pa.array(vectors_ND.ravel()), vectors_ND.shape[1])
        rows = pa.table({"row": pa.array(np.arange(len(vectors_ND))), "vector": flat})

        def add() -> None:
            table = lancedb.connect(str(folder)).create_table(TABLE, rows)
            table.create_index("vector", config=HnswSq(distance_type="dot", **parameters))

        return timed(add)

    def open(self, folder: Path) -> None:
        self._table = lancedb.connect(str(folder)).open_table(TABLE)
        (index,) = self._table.list_indices()
        self._table.prewarm_index(index.name)

    def asker(self, parameters: Parameters) -> Ask:
        def ask(query_1D: Float32) -> pa.Table:
            query = self._table.search(query_1D[0], vector_column_name="vector").distance_type("dot").limit(K)
            return (
                query.ef(parameters["ef"])
                .refine_factor(parameters["refine_factor"])
                .select(["row", "_distance"])
                .to_arrow()
            )

        return ask

    def rows(self, found: Any) -> list[int]:
        return list(found.column("row").to_pylist())


if __name__ == "__main__":
    main(LanceDB())
