"""The plan of a gallery: for every kind of index what it takes, and the cheapest that keeps the budgets."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from chatsearch.errors import PlanBudgetError
from chatsearch.index.plan.figure import Figure
from chatsearch.index.plan.kinds import IndexKind, index_kinds
from chatsearch.index.plan.latency import p95_seconds
from chatsearch.index.plan.layout import MACHINE_COUNTS, REPLICA_COUNTS, Layout, NoLayout, cheapest_layout
from chatsearch.index.plan.machines import CATALOGUE, Machine
from chatsearch.index.plan.phases import Phase, build_phase, embed_phase
from chatsearch.index.plan.rates import ASSUMED, Rates
from chatsearch.index.plan.request import PlanRequest
from chatsearch.index.plan.sizes import feature_bytes, item_bytes

HOURS_A_MONTH = 730
STORED_GB_MONTH = 0.023
"""Dollars; S3 Standard, us-east-1, first 50 TB."""


@dataclass(frozen=True, slots=True)
class Bytes:
    """What the gallery keeps, once each, in bytes."""

    features: Figure
    index: Figure
    metadata: Figure
    thumbnails: Figure

    @property
    def total(self) -> float:
        """All of it."""
        return self.features.value + self.index.value + self.metadata.value + self.thumbnails.value


@dataclass(frozen=True, slots=True)
class Choice:
    """One kind of index, laid out."""

    kind: IndexKind
    layout: Layout
    machines: Figure
    """In service; the ends of the band are the layouts for searches faster and slower by the kind's factor. Its high end is
    infinite where slower searches have no layout."""
    p95_ms: Figure
    serve_month: Figure
    """Dollars."""
    build: Phase
    bytes: Bytes
    total: float
    """Dollars of the build and of ``months`` in service: what choices are compared by."""


@dataclass(frozen=True, slots=True)
class GalleryPlan:
    """The answer to a request."""

    request: PlanRequest
    rates: Rates
    best: Choice
    choices: tuple[Choice, ...]
    """Of all kinds that keep the budgets, cheapest first."""
    refused: dict[str, NoLayout]
    """The other kinds, with what is in their way."""
    embed: Phase | None
    store_month: float
    """Dollars for keeping features, index, metadata and thumbnails."""


def plan_gallery(request: PlanRequest, rates: Rates = ASSUMED, machines: Sequence[Machine] = CATALOGUE) -> GalleryPlan:
    """The cheapest index and machines for a gallery.

    Raises:
        PlanBudgetError: if no kind of index keeps all budgets, naming the one in the way.
    """
    choices: list[Choice] = []
    refused: dict[str, NoLayout] = {}
    for kind in index_kinds(request, rates):
        layout = cheapest_layout(request, kind, rates, machines)
        if isinstance(layout, NoLayout):
            refused[kind.name] = layout
        else:
            choices.append(_choice(request, kind, rates, machines, layout))
    if not choices:
        raise PlanBudgetError(_refusal(request, refused, machines))
    choices.sort(key=lambda choice: (choice.total, choice.kind.name))
    store = choices[0].bytes.total / 1e9 * STORED_GB_MONTH
    embed = embed_phase(request, rates, machines)
    return GalleryPlan(request, rates, choices[0], tuple(choices), refused, embed, store)


def _choice(request: PlanRequest, kind: IndexKind, rates: Rates, machines: Sequence[Machine], layout: Layout) -> Choice:
    found = [cheapest_layout(request, kind, rates, machines, f) for f in (1 / kind.factor, kind.factor)]
    month = layout.dollars_per_hour * HOURS_A_MONTH
    prices = [month, *(math.inf if isinstance(f, NoLayout) else f.dollars_per_hour * HOURS_A_MONTH for f in found)]
    counts = [layout.num_machines, *(math.inf if isinstance(f, NoLayout) else f.num_machines for f in found)]
    build = build_phase(request, kind, layout, machines)
    return Choice(
        kind,
        layout,
        Figure(layout.num_machines, min(counts), max(counts), kind.source),
        _p95(request, rates, kind, layout),
        Figure(month, min(prices), max(prices), f"machines x list price; {kind.source}"),
        build,
        _bytes(request, kind, layout),
        month * request.months + build.dollars.value,
    )


def _p95(request: PlanRequest, rates: Rates, kind: IndexKind, layout: Layout) -> Figure:
    """The same machines, with searches slower and faster by the kind's factor; infinite where they cannot keep up."""

    def of(factor: float, rpc_ms: float) -> float:
        seconds = p95_seconds(
            arrivals_per_second=request.qps / layout.replicas,
            service_seconds=layout.service_seconds * factor,
            variation=rates.service_variation.value,
            num_machines=layout.machines,
            num_servers=layout.num_servers,
            seed=request.seed,
        )
        return rpc_ms + 1e3 * seconds

    low, high = of(1 / kind.factor, rates.rpc_ms.low), of(kind.factor, rates.rpc_ms.high)
    return Figure(layout.p95_ms, low, high, f"simulated; {kind.source}")


def _bytes(request: PlanRequest, kind: IndexKind, layout: Layout) -> Bytes:
    n = request.images
    index = layout.num_shards * kind.shard_bytes(math.ceil(n / layout.num_shards))
    exact = "exact: FAISS' file layout" if kind.name != "hnsw" else "exact but for the drawn levels of the graph"
    return Bytes(
        Figure.about(n * feature_bytes(request), 1.02, "exact but for Parquet's pages: float32 and a hash a picture"),
        Figure.about(index, 1.02 if kind.name == "hnsw" else 1.0, exact),
        Figure.about(n * item_bytes(request), 1.3, f"assumed: {request.metadata_bytes} bytes of metadata an item"),
        Figure.about(n * request.thumbnail_bytes, 1.3, f"assumed: {request.thumbnail_bytes} bytes a thumbnail"),
    )


def _refusal(request: PlanRequest, refused: dict[str, NoLayout], machines: Sequence[Machine]) -> str:
    """Which budget cannot be met: of the kinds that come furthest."""
    furthest = {name: none for name, none in refused.items() if none.budget != "recall"} or refused
    order = ("qps", "p95", "images", "recall")
    budget = min((none.budget for none in furthest.values()), key=order.index)
    best = {name: none.best for name, none in furthest.items() if none.budget == budget}
    if budget == "recall":
        return f"No index reaches recall {request.recall:g}; the best is {max(best.values()):g}. Lower --recall."
    if budget == "p95":
        name = min(best, key=best.__getitem__)
        return (
            f"No index keeps --p95-ms {request.p95_ms:g} at --recall {request.recall:g}: with nothing else to do, {name} takes "
            f"{best[name]:,.1f} ms on the machines known. Raise --p95-ms above that, or lower --recall."
        )
    most = f"{MACHINE_COUNTS[-1]} x {REPLICA_COUNTS[-1]} of the largest machines"
    if budget == "qps":
        return (
            f"No index answers --qps {request.qps:g} within --p95-ms {request.p95_ms:g} on {most}; one replica of the fastest takes "
            f"{max(best.values()):,.0f} searches a second. Lower --qps or raise --p95-ms."
        )
    largest = max(machine.memory_gib for machine in machines)
    return (
        f"No index of --images {request.images:,} fits into {MACHINE_COUNTS[-1]} machines of {largest:,.0f} GiB. Plan for fewer "
        "pictures, lower --recall, or name larger machines with --machines."
    )
