"""The probe's builds: real ones of two small synthetic galleries, told apart into time of an item and time of its numbers."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import numpy as np

from chatsearch.index.build import build_index
from chatsearch.index.config import IndexConfig
from chatsearch.index.plan.figure import Figure
from chatsearch.index.plan.forecast import array_bytes
from chatsearch.index.plan.rates import measured
from chatsearch.index.plan.request import PlanRequest
from chatsearch.index.plan.sample import ROWS_PER_PART, clustered, write_sample_bundle, write_sample_store
from chatsearch.index.watch import PeakMemory

_ITEMS = 20_000
_NARROW = 8


def build_rates(request: PlanRequest) -> dict[str, Figure]:
    """Time and memory of an item, and bytes of vectors a second, from two builds."""
    narrow_seconds, narrow_memory = _build(_NARROW, _NARROW, request.metadata_bytes)
    wide_seconds, _ = _build(request.feature_dimension, request.dimension, request.metadata_bytes)
    numbers = 4 * (request.feature_dimension + request.dimension) * _ITEMS
    arrays = array_bytes(_ITEMS, _NARROW, _NARROW, rows_per_part=ROWS_PER_PART, num_shards=1)
    return {
        "item_seconds": measured(narrow_seconds / _ITEMS, f"build of {_ITEMS:,} synthetic items of {_NARROW} numbers"),
        "vector_bytes": measured(numbers / max(1e-3, wide_seconds - narrow_seconds), "a wider build less a narrow one"),
        "item_memory": measured(max(1.0, (narrow_memory - arrays) / _ITEMS), "peak of the narrow build"),
    }


def _build(feature_dimension: int, dimension: int, metadata_bytes: int) -> tuple[float, int]:
    """Seconds and peak bytes of one build."""
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        features, model, output = (str(Path(folder, name)) for name in ("features", "model", "index"))
        write_sample_store(features, clustered(_ITEMS, feature_dimension, seed=0), metadata_bytes)
        weight_dD = rng.standard_normal((dimension, feature_dimension), dtype=np.float32)
        write_sample_bundle(model, weight_dD)
        memory = PeakMemory()
        began = time.perf_counter()
        build_index(IndexConfig(features=features, model=model, output=output))
        return time.perf_counter() - began, memory.peak_bytes()
