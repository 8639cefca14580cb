"""autofaiss: it chooses the kind of FAISS index for the memory that it is given, and tunes the search itself."""

from __future__ import annotations

import json
import logging
import shutil
from importlib.metadata import version
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from autofaiss import build_index
from autofaiss.indices.index_utils import set_search_hyperparameters
from chatsearch.index.vectors import Float32

from tests.benchmarks.peers.engine import Ask, Engine, K, Parameters, main, num_cores, timed

INDEX, INFOS = "knn.index", "index_infos.json"


class Autofaiss(Engine):
    """``build_index`` with the bytes as ``max_index_memory_usage``, or its own default.

    A ``reach`` of 0 searches as autofaiss tuned its index, on its own vectors; others set the same numbers that it tunes.
    """

    version = version("autofaiss")

    def build(self, vectors_ND: Float32, folder: Path, parameters: Parameters) -> float:
        inputs = folder / "vectors"
        inputs.mkdir()
        np.save(inputs / "part.npy", vectors_ND)
        budget = {"max_index_memory_usage": f"{parameters['max_bytes']}B"} if "max_bytes" in parameters else {}
        told = {"metric_type": "ip", "nb_cores": num_cores(), "verbose": logging.WARNING, "save_on_disk": False}

        def choose() -> None:
            index, infos = build_index(embeddings=str(inputs), **told, **budget)
            assert index is not None, "autofaiss gave no index; what it logged says why"
            faiss.write_index(index, str(folder / INDEX))
            # Not by autofaiss: it writes NumPy's numbers, which are no JSON since NumPy 2.
            (folder / INFOS).write_text(json.dumps({name: infos[name] for name in ("index_key", "index_param")}))

        took = timed(choose)
        shutil.rmtree(inputs)
        return took

    def open(self, folder: Path) -> None:
        self._infos = json.loads((folder / INFOS).read_text())
        self._index = faiss.read_index(str(folder / INDEX))

    def asker(self, parameters: Parameters) -> Ask:
        said = _hyperparameters(self._infos["index_key"], parameters["reach"]) or self._infos["index_param"]
        if said:
            set_search_hyperparameters(self._index, said)
        return lambda query_1D: self._index.search(query_1D, K)

    def rows(self, found: Any) -> list[int]:
        return [int(row) for row in found[1][0]]

    def facts(self) -> dict[str, Any]:
        chosen = f"chose {self._infos['index_key']}, tuned to {self._infos['index_param'] or 'nothing'}"
        return {**super().facts(), "settings": chosen}


def _hyperparameters(key: str, reach: int) -> str:
    """As ``autofaiss.external.optimize.get_optimal_hyperparameters`` writes them."""
    if not reach or key == "Flat":
        return ""
    if "IVF" not in key:
        return f"efSearch={reach}"
    if "PQ" not in key:
        return f"nprobe={reach}"
    return f"nprobe={reach},efSearch={2 * reach},ht=2048" if "_HNSW" in key else f"nprobe={reach},ht=2048"


if __name__ == "__main__":
    main(Autofaiss())
