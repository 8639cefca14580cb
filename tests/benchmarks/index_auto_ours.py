"""``kind=auto`` by the protocol of the peers: chosen by queries that a file holds, asked with what was chosen."""

from __future__ import annotations

import json
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from chatsearch.config import Config
from chatsearch.index.build import build_index
from chatsearch.index.config import IndexConfig
from chatsearch.index.plan.sample import write_sample_bundle, write_sample_store
from chatsearch.index.projection import Projection
from chatsearch.index.query_vectors import Lineage, write_query_vectors
from chatsearch.index.vectors import Float32
from chatsearch.kinds import QUERY_VECTORS
from chatsearch.manifest import begin_output

from tests.benchmarks.index_ours import Ours
from tests.benchmarks.peers.engine import main, timed


class _Given(Config):
    """Query vectors that a benchmark names."""

    queries: str


class Auto(Ours):
    """``queries`` names a file of vectors (.npy); the ids and targets beside it (.json) decide which of them tune."""

    def build(self, vectors_ND: Float32, folder: Path, parameters: Any) -> float:
        with tempfile.TemporaryDirectory(dir=folder) as inputs:
            features, model, asked = (str(Path(inputs) / name) for name in ("features", "model", "queries"))
            write_sample_store(features, vectors_ND, metadata_bytes=0)
            write_sample_bundle(model, np.eye(vectors_ND.shape[1], dtype=np.float32))
            projection = Projection.open(model)
            lineage = Lineage(model, projection.model_fingerprint, projection.mq_fingerprint, parameters["queries"])
            names = json.loads(Path(parameters["queries"]).with_suffix(".json").read_text())
            write_query_vectors(
                begin_output(asked, QUERY_VECTORS, _Given(queries=parameters["queries"]), {}),
                names["ids"],
                names["targets"],
                np.load(parameters["queries"]),
                lineage,
            )
            config = IndexConfig(
                features=features,
                model=model,
                output=str(folder / "index"),
                kind="auto",
                queries=asked,
                min_recall=float(parameters["min_recall"]),
                max_bytes=parameters["max_bytes"],
            )
            return timed(partial(build_index, config))

    def facts(self) -> dict[str, Any]:
        facts = self._index.artefact.manifest.facts
        chosen = " ".join([facts["kind"], *(f"{name}={value}" for name, value in facts["search"].items())])
        tried = f"{len(facts['tuning']['curve'])} settings over {facts['tuning']['rows']:,} rows"
        return {**super().facts(), "settings": f"chose {chosen} of {tried} by {facts['tuning']['num_queries']} queries"}


if __name__ == "__main__":
    main(Auto())
