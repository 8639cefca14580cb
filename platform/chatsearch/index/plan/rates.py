"""What a core, a disk and a network do in a second: measured by the probe where it ran, assumed where it did not.

A rate counts for one core unless it says otherwise. Measured rates carry over to the catalogue's machines with a band of their own:
another processor of the same generation, and neighbours on the same memory.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from chatsearch.errors import ConfigError, MissingInputError
from chatsearch.index.plan.figure import Figure

TRANSFER = 1.25
"""Band of a measured rate on another machine. Two cores of one cloud host alone differ by 10 % from hour to hour."""


def measured(value: float, what: str) -> Figure:
    """A rate from the probe."""
    return Figure.about(value, TRANSFER, f"measured: {what}")


def assumed(value: float, factor: float, why: str) -> Figure:
    """A rate that nobody measured here."""
    return Figure.about(value, factor, f"assumed: {why}")


@dataclass(frozen=True, slots=True)
class Rates:
    """Everything a plan multiplies by."""

    bandwidth_share: Figure
    """Of the data sheet's bandwidth; the probe has no data sheet to compare with, so this one stays assumed."""
    flat_scan_share: Figure
    """A flat scan's bytes a second over the bytes a second of plain reads, all cores."""
    flat_bytes: Figure
    """Bytes of float32 vectors a core scores."""
    fp16_bytes: Figure
    sq8_bytes: Figure
    pq_bytes: Figure
    """Code bytes of inverted lists a core scans."""
    graph_bytes: Figure
    """Bytes of vectors a core visits on a graph or re-ranks."""
    gemm_flops: Figure
    pq_encode_bytes: Figure
    """Bytes of float32 vectors a core encodes with a product quantiser, coarse assignment not counted."""
    graph_add_bytes: Figure
    """Bytes of float32 vectors a core adds to an HNSW graph of 32 links."""
    visits_per_ef: Figure
    """Vectors an HNSW search visits for one unit of efSearch."""
    probe_miss: Figure
    probe_decay: Figure
    probe_lists: Figure
    ef_miss: Figure
    ef_decay: Figure
    item_seconds: Figure
    """Build time of an item that does not depend on the vector's width."""
    vector_bytes: Figure
    """Bytes of features and projected vectors, together, that a build gets through; of the request's own widths."""
    item_memory: Figure
    """Bytes."""
    service_variation: Figure
    rpc_ms: Figure
    """Milliseconds that fan-out and merging add to a search, once."""
    decode_images: Figure
    gpu_share: Figure
    embed_images: Figure | None = None
    """Pictures a core embeds, decoding included; None where no model was probed: then GPUs are reckoned with."""


ASSUMED = Rates(
    bandwidth_share=assumed(0.7, 1.25, "share of the peak memory bandwidth that reads reach (STREAM on servers)"),
    flat_scan_share=assumed(0.85, 1.2, "a flat scan gets most of the bandwidth that plain reads get"),
    flat_bytes=assumed(8e9, 1.5, "one core of AVX2 keeps about 10 GB/s of reads in flight"),
    fp16_bytes=assumed(3e9, 2.0, "decoding halves to quarters the rate of float32"),
    sq8_bytes=assumed(1.5e9, 2.0, "decoding a byte costs what decoding two of fp16 costs"),
    pq_bytes=assumed(8e8, 2.0, "one table look-up a code byte, under one a nanosecond (Andre et al., VLDB 2015)"),
    graph_bytes=assumed(2e9, 2.0, "a vector of 1 KiB at a random place: about half a microsecond"),
    gemm_flops=assumed(5e10, 1.6, "60 % of AVX2's 80 GFLOP/s at 2.5 GHz, float32"),
    pq_encode_bytes=assumed(1.5e7, 2.0, "256 distances a sub-vector, not batched"),
    graph_add_bytes=assumed(2e6, 2.0, "efConstruction 40 visits some 500 vectors an insertion"),
    visits_per_ef=assumed(25.0, 1.5, "a third of 64 neighbours a hop is new"),
    probe_miss=assumed(0.4, 1.5, "no probe can know it: share of true neighbours outside the nearest of 1,024 lists"),
    probe_decay=assumed(0.9, 1.2, "misses fall as probed lists to this power"),
    probe_lists=assumed(1024.0, 1.0, "lists of the index that the misses are told of"),
    ef_miss=assumed(4.0, 1.5, "no probe can know it: misses at efSearch e are this times e to the power of -ef_decay"),
    ef_decay=assumed(1.1, 1.2, "misses fall as efSearch to this power"),
    item_seconds=assumed(60e-6, 1.6, "ids, metadata and tables of an item in Python"),
    vector_bytes=assumed(1.5e8, 1.6, "projection in float64 and a gather, an add and a write"),
    item_memory=assumed(2500.0, 1.5, "Python objects of an item while an index is built"),
    service_variation=assumed(0.3, 1.3, "standard deviation over mean of one search's time"),
    rpc_ms=assumed(3.0, 1.5, "shards behind Ray actors in one region add about 3 ms"),
    decode_images=assumed(150.0, 1.6, "JPEG of about 500 pixels decoded and resized by one core (Pillow)"),
    gpu_share=assumed(0.35, 1.5, "share of a GPU's peak that an encoder in fp16 reaches"),
)
"""What a plan reckons with where nothing was measured."""


def write_rates(path: str, rates: Rates, facts: dict[str, Any]) -> None:
    """Keep rates in a JSON file, with what the probe ran on beside them."""
    held = {f.name: getattr(rates, f.name) for f in fields(Rates)}
    data = {"facts": facts, "rates": {name: figure and figure.as_json() for name, figure in held.items()}}
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(json.dumps(data, indent=1) + "\n")


def read_rates(path: str) -> Rates:
    """Rates that a probe kept.

    Raises:
        MissingInputError: if there is no such file.
        ConfigError: if it is not such a file.
    """
    if not Path(path).is_file():
        raise MissingInputError(
            f"There are no rates at {path}. Measure them: chatsearch plan ... --probe --rates {path}"
        )
    try:
        held = json.loads(Path(path).read_bytes())["rates"]
        figures: dict[str, Any] = {name: None if value is None else _figure(value) for name, value in held.items()}
        rates = Rates(**figures)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{path} holds no rates of a probe ({error!r}). Measure them again with --probe.") from error
    if missing := [f.name for f in fields(Rates) if getattr(rates, f.name) is None and f.name != "embed_images"]:
        raise ConfigError(f"{path} has no value for {', '.join(missing)}. Measure again with --probe.")
    return rates


def _figure(held: dict[str, Any]) -> Figure:
    value, low, high = (float(held[name]) for name in ("value", "low", "high"))
    if not 0 < low <= value <= high < float("inf"):
        raise ValueError(f"value {value} between {low} and {high}")
    return Figure(value, low, high, str(held["source"]))
