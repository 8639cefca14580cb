"""Goal I9, second half: what a probe forecasts of a build ten times its size, against that build.

The gallery is synthetic; nothing is chosen among: three probes, each followed by its build in a process of its own, as a job's.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from chatsearch.index.config import IndexConfig
from chatsearch.index.plan.probe import probe
from chatsearch.index.plan.rates import write_rates
from chatsearch.index.plan.request import PlanRequest
from chatsearch.index.plan.sample import clustered, write_sample_bundle, write_sample_store
from chatsearch.kinds import GALLERY_INDEX
from chatsearch.manifest import open_artefact

from tests.benchmarks.harness import Result

COMMAND = "make bench ONLY=forecast"
NUM_ITEMS = 200_000
"""Ten times what the probe builds."""
NUM_SHARDS = 4
ROUNDS = 3
_BUILD = """
import sys
from chatsearch.index.build import build_index
from chatsearch.index.config import IndexConfig
build_index(IndexConfig.model_validate_json(sys.argv[1]))
"""


def measure() -> Iterator[Result]:
    """Forecast over actual of bytes, seconds and peak memory; each has to lie within 20 %."""
    request = PlanRequest(images=NUM_ITEMS, qps=1, p95_ms=1000, recall=0.9)
    ratios: dict[str, list[float]] = {"bytes": [], "seconds": [], "peak_bytes": []}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_sample_store(
            str(root / "features"), clustered(NUM_ITEMS, request.feature_dimension, seed=1), request.metadata_bytes
        )
        weight_dD = np.random.default_rng(1).standard_normal((request.dimension, request.feature_dimension))
        write_sample_bundle(str(root / "model"), weight_dD.astype(np.float32))
        for number in range(ROUNDS):
            rates, facts = probe(request)
            write_rates(str(root / "rates.json"), rates, facts)
            config = IndexConfig(
                features=str(root / "features"),
                model=str(root / "model"),
                output=str(root / f"index-{number}"),
                num_shards=NUM_SHARDS,
                rates=str(root / "rates.json"),
            )
            held = _build(config)
            for name, found in ratios.items():
                found.append(held["forecast"][name] / held["actual"][name])
    for name, found in ratios.items():
        met = all(0.8 <= ratio <= 1.2 for ratio in found)
        value = max(found, key=lambda ratio: abs(ratio - 1))
        goal = f"forecast over actual {name}, 10x the probe, within 20 % in each of {ROUNDS} rounds"
        yield Result(
            "I9", "met" if met else "missed", value, (min(found), max(found)), goal, COMMAND, runs=tuple(found)
        )


def _build(config: IndexConfig) -> dict[str, Any]:
    """Forecast and actual figures of a build in its own process: one that has built before takes back memory without a trace."""
    subprocess.run([sys.executable, "-c", _BUILD, config.model_dump_json()], check=True)
    return open_artefact(config.output, GALLERY_INDEX).manifest.facts["build"]
