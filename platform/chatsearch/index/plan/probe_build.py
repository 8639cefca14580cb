"""The probe's builds: real ones of two small synthetic galleries, told apart into time of an item and time of its numbers.

Each runs in a process of its own (``python -m`` this module): memory that earlier work has let go of stays with its process, where
a build takes it again without a trace, and the probe's own scans let go of a gibibyte.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from chatsearch.errors import StorageError
from chatsearch.index.build import build_index
from chatsearch.index.config import IndexConfig
from chatsearch.index.exhaustive import limit_threads
from chatsearch.index.plan.figure import Figure
from chatsearch.index.plan.forecast import array_bytes
from chatsearch.index.plan.rates import measured
from chatsearch.index.plan.request import PlanRequest
from chatsearch.index.plan.sample import ROWS_PER_PART, clustered, write_sample_bundle, write_sample_store
from chatsearch.index.watch import PeakMemory

_ITEMS = 20_000
_NARROW = 8
_GALLERIES = {"warming": 200, "measured": _ITEMS}
"""Items of what is built. With the first, whatever a process loads once has been loaded."""


def build_rates(request: PlanRequest) -> dict[str, Figure]:
    """Time and memory of an item, and bytes of vectors a second, from two builds.

    Raises:
        StorageError: a build failed.
    """
    narrow_seconds, narrow_memory = _in_own_process(_NARROW, _NARROW, request.metadata_bytes)
    wide_seconds, _ = _in_own_process(request.feature_dimension, request.dimension, request.metadata_bytes)
    numbers = 4 * (request.feature_dimension + request.dimension) * _ITEMS
    arrays = array_bytes(_ITEMS, _NARROW, _NARROW, rows_per_part=ROWS_PER_PART, num_shards=1)
    return {
        "item_seconds": measured(narrow_seconds / _ITEMS, f"build of {_ITEMS:,} synthetic items of {_NARROW} numbers"),
        "vector_bytes": measured(numbers / max(1e-3, wide_seconds - narrow_seconds), "a wider build less a narrow one"),
        "item_memory": measured(max(1.0, (narrow_memory - arrays) / _ITEMS), "peak of the narrow build"),
    }


def _in_own_process(feature_dimension: int, dimension: int, metadata_bytes: int) -> tuple[float, int]:
    """Seconds and peak bytes of a build."""
    weight_dD = np.random.default_rng(0).standard_normal((dimension, feature_dimension), dtype=np.float32)
    with tempfile.TemporaryDirectory() as folder:
        for name, num_items in _GALLERIES.items():
            features_ND = clustered(num_items, feature_dimension, seed=0)
            write_sample_store(str(Path(folder, name, "features")), features_ND, metadata_bytes)
            write_sample_bundle(str(Path(folder, name, "model")), weight_dD)
        command = [sys.executable, "-m", "chatsearch.index.plan.probe_build", folder]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        said = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise StorageError(
            f"The probe's build of {_ITEMS:,} synthetic items in {tempfile.gettempdir()} ended with exit code {done.returncode}: {said}. It "
            "needs room there, and memory; TMPDIR names another folder."
        )
    seconds, peak_bytes = json.loads(done.stdout.splitlines()[-1])
    return seconds, peak_bytes


def _build(folder: Path) -> tuple[float, int]:
    """Seconds and peak bytes of the build of a gallery's features, in this process."""
    memory = PeakMemory()
    began = time.perf_counter()
    build_index(IndexConfig(**{name: str(folder / name) for name in ("features", "model", "output")}))
    return time.perf_counter() - began, memory.peak_bytes()


if __name__ == "__main__":
    limit_threads(1)
    _, measured_build = [_build(Path(sys.argv[1], name)) for name in _GALLERIES]
    print(json.dumps(measured_build))
