"""The kinds of index that a plan compares: bytes of a shard, work of a search, work of a build, and the recall each can reach.

n vectors of d float32 numbers in a gallery of N. All work is in seconds of one core, told for N / machines vectors where it is a
search's. ``factor`` is the band of a search's time.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from chatsearch.index.plan import sizes
from chatsearch.index.plan.figure import joint_factor, weakest_source
from chatsearch.index.plan.rates import Rates
from chatsearch.index.plan.request import PlanRequest

LISTS_PER_ROOT = 8
"""Inverted lists over the root of N: the middle of what FAISS' guidelines advise (4 to 16)."""
GRAPH_LINKS = 32
RERANKED = 20
"""Candidates re-ranked exactly for each hit wanted."""
_TRAIN_PER_LIST, _TRAIN_STEPS = 64, 10
_COARSE_EF = 64
_PROBES_GROW = 0.25, 2.0
"""Lists to probe for one recall grow as the number of lists to this power, and are known up to this factor: between 0, where a
query's neighbours stay in a few lists, and 1, where they spread with the gallery."""


@dataclass(frozen=True, slots=True)
class Search:
    """Work of one search on one machine of ``num_machines``, in seconds.

    ``scan`` can be split over the machine's cores (by shards on it), ``once`` cannot. ``memory_bytes`` pass through memory.
    """

    once: float
    scan: float
    memory_bytes: float


@dataclass(frozen=True)
class IndexKind:
    """One kind of index for one request."""

    name: str
    settings: str
    recall: float
    """The highest it reaches."""
    shard_bytes: Callable[[int], int]
    """FAISS file of a shard of n vectors."""
    search: Callable[[float], Search]
    """By the number of vectors on the machine."""
    build_seconds: float
    """Core seconds for all N vectors, item tables and projection included."""
    factor: float
    build_factor: float
    source: str
    """Where the widest part of a search's band comes from."""
    build_source: str

    @property
    def heap_bytes(self) -> int:
        """Memory of a row beside the file: FAISS maps ids of a flat index alone, the others number their rows."""
        return sizes.ID_MAP_HEAP if self.name == "flat" else 0


def index_kinds(request: PlanRequest, rates: Rates) -> list[IndexKind]:
    """All kinds, for a gallery of ``request.images``."""
    return [
        _exact("flat", "float32, exact", 1.0, request, rates),
        _exact("fp16", "scalar quantiser, 16 bits", 0.999, request, rates),
        _exact("sq8", "scalar quantiser, 8 bits", 0.99, request, rates),
        _pq_lists(request, rates),
        _graph(request, rates),
    ]


def _common_build(request: PlanRequest, rates: Rates) -> float:
    """Reading, projecting, gathering, writing: what every kind's build does."""
    numbers = 4 * (request.feature_dimension + request.dimension)
    return request.images * (rates.item_seconds.value + numbers / rates.vector_bytes.value)


def _exact(name: str, settings: str, recall: float, request: PlanRequest, rates: Rates) -> IndexKind:
    d = request.dimension
    width, rate = {"flat": (4, rates.flat_bytes), "fp16": (2, rates.fp16_bytes), "sq8": (1, rates.sq8_bytes)}[name]
    bits = 8 * width

    def shard_bytes(n: int) -> int:
        return sizes.id_map_bytes(n, sizes.flat_bytes(n, d)) if name == "flat" else sizes.scalar_bytes(n, d, bits)

    def search(n: float) -> Search:
        return Search(0.0, n * d * width / rate.value, n * d * width)

    used = (rate, rates.bandwidth_share, rates.flat_scan_share)
    built = (rates.item_seconds, rates.vector_bytes)
    return IndexKind(
        name,
        settings,
        recall,
        shard_bytes,
        search,
        _common_build(request, rates),
        joint_factor(*used),
        joint_factor(*built),
        weakest_source(*used),
        weakest_source(*built),
    )


def coarse_seconds(nlist: float, request: PlanRequest, rates: Rates) -> float:
    """One core's time to find a vector's lists: all centroids compared, or a graph over them, whichever is less."""
    d = request.dimension
    everyone = 2 * d * nlist / rates.gemm_flops.value
    graph = _COARSE_EF * rates.visits_per_ef.value * 4 * d / rates.graph_bytes.value
    return min(everyone, graph)


def probed_lists(recall: float, nlist: float, rates: Rates) -> float:
    """Lists to probe for a recall: misses fall as a power of the lists probed, and those needed grow slowly with ``nlist``."""
    power, _ = _PROBES_GROW
    base = (rates.probe_miss.value / max(1e-9, 1.0 - recall)) ** (1 / rates.probe_decay.value)
    return max(1.0, base * max(1.0, nlist / rates.probe_lists.value) ** power)


def _pq_lists(request: PlanRequest, rates: Rates) -> IndexKind:
    d, total = request.dimension, request.images
    root = math.sqrt(total)
    nlist = max(1, round(LISTS_PER_ROOT * root))
    code = d // 4
    # Half of the misses allowed are left to the codes, which 20 candidates a hit re-ranked exactly have to make good.
    probes = min(probed_lists((1.0 + min(request.recall, 0.995)) / 2, LISTS_PER_ROOT * root, rates), float(nlist))
    share = probes / (
        LISTS_PER_ROOT * root
    )  # of the lists; not rounded, so that a search never falls with more pictures

    def shard_bytes(n: int) -> int:
        exact = sizes.scalar_bytes(n, d, 16)
        return sizes.refined_bytes(sizes.pq_lists_bytes(n, d, nlist, code), exact)

    def search(n: float) -> Search:
        scanned = min(1.0, share) * n * (code + 8)
        tables = 2 * d * 256 / rates.gemm_flops.value  # by inner product once a search, not once a list
        reranked = min(n, request.k * RERANKED) * 2 * d / rates.graph_bytes.value
        once = coarse_seconds(LISTS_PER_ROOT * root, request, rates) + tables + reranked
        return Search(once, scanned / rates.pq_bytes.value, scanned)

    trained = min(total, _TRAIN_PER_LIST * nlist) * _TRAIN_STEPS
    assigned = (trained + total) * coarse_seconds(LISTS_PER_ROOT * root, request, rates)
    encoded = total * 4 * d / rates.pq_encode_bytes.value
    used = (rates.pq_bytes, rates.probe_miss, rates.graph_bytes)
    built = (rates.pq_encode_bytes, rates.graph_bytes, rates.visits_per_ef)
    return IndexKind(
        "ivf-pq",
        f"{nlist:,} lists, {probes:,.0f} probed, codes of {code} bytes, {RERANKED} x k re-ranked in fp16",
        0.995,
        shard_bytes,
        search,
        _common_build(request, rates) + assigned + encoded,
        math.exp(math.hypot(math.log(joint_factor(*used)), math.log(_PROBES_GROW[1]))),
        joint_factor(*built),
        "assumed: lists to probe grow as the number of lists to the power 0 to 0.5",
        weakest_source(*built),
    )


def _graph(request: PlanRequest, rates: Rates) -> IndexKind:
    d, total = request.dimension, request.images
    ef = max(
        float(request.k),
        (rates.ef_miss.value / max(1e-9, 1.0 - min(request.recall, 0.995))) ** (1 / rates.ef_decay.value),
    )

    def shard_bytes(n: int) -> int:
        return sizes.graph_bytes(n, d, GRAPH_LINKS)

    def search(n: float) -> Search:
        visited = min(n, ef * rates.visits_per_ef.value * max(1.0, math.log(max(n, 2.0)) / math.log(1e5)))
        return Search(visited * 4 * d / rates.graph_bytes.value, 0.0, visited * 4 * d)

    used = (rates.graph_bytes, rates.visits_per_ef, rates.ef_miss)
    built = (rates.graph_add_bytes, rates.item_seconds)
    return IndexKind(
        "hnsw",
        f"{GRAPH_LINKS} links, efSearch {ef:,.0f}, float32",
        0.995,
        shard_bytes,
        search,
        _common_build(request, rates)
        + total * 4 * d / rates.graph_add_bytes.value * max(1.0, math.log(max(total, 2)) / math.log(1e5)),
        joint_factor(*used),
        joint_factor(*built),
        weakest_source(*used),
        weakest_source(*built),
    )
