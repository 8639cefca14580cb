"""A build's forecast beside what it took, and the probe that the forecast can be made from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from chatsearch.errors import MissingInputError
from chatsearch.index.build import build_index
from chatsearch.index.plan.probe import probe
from chatsearch.index.plan.rates import ASSUMED, write_rates
from chatsearch.index.plan.request import PlanRequest

from tests.unit.index.synthetic import Gallery

Make = Callable[..., Gallery]


def test_a_build_writes_forecast_beside_actual(make_gallery: Make) -> None:
    artefact = make_gallery(500).index(3)
    held = artefact.manifest.facts["build"]
    actual, forecast = held["actual"], held["forecast"]
    assert actual["bytes"] == sum(entry.num_bytes for entry in artefact.manifest.files.values())
    assert actual["seconds"] > 0
    # Parquet's footers are most of so small an index.
    shards = sum(entry.num_bytes for name, entry in artefact.manifest.files.items() if name.endswith(".faiss"))
    assert shards < forecast["bytes"] < actual["bytes"] * 1.2
    assert forecast["seconds"] > 0
    assert held["rates"].startswith("assumed")


def test_rates_change_the_forecast_and_not_the_fingerprint(make_gallery: Make, tmp_path: Path) -> None:
    gallery = make_gallery(50)
    path = str(tmp_path / "rates.json")
    write_rates(path, ASSUMED, {})
    with_rates = build_index(gallery.config(2, "one", rates=path))
    without = build_index(gallery.config(2, "two"))
    assert with_rates.fingerprint == without.fingerprint
    assert with_rates.manifest.files == without.manifest.files
    with pytest.raises(MissingInputError, match="--probe"):
        build_index(gallery.config(2, "three", rates=path + "-not-there"))


def test_the_probe_measures_rates_of_this_machine() -> None:
    asked = PlanRequest(images=10**6, qps=1, p95_ms=100, recall=0.9, dimension=32, feature_dimension=64)
    rates, facts = probe(asked)
    assert facts["sample"].startswith("synthetic")
    taken = {name for name in rates.__slots__ if (rate := getattr(rates, name)) and rate.source.startswith("measured")}
    assert taken >= {"flat_scan_share", "flat_bytes", "sq8_bytes", "pq_bytes", "graph_add_bytes", "item_seconds"}
    assert rates.probe_miss == ASSUMED.probe_miss
    assert 0 < rates.flat_scan_share.value <= 1
    assert 1e8 < rates.flat_bytes.value < 1e12
