"""The cheapest machines that hold an index and answer in time: shards, replicas, and what was in the way where there are none."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from chatsearch.index.plan.kinds import IndexKind
from chatsearch.index.plan.latency import MAX_LOAD, idle_p95_seconds, p95_seconds
from chatsearch.index.plan.machines import GIB, Machine
from chatsearch.index.plan.rates import Rates
from chatsearch.index.plan.request import PlanRequest
from chatsearch.index.plan.sizes import SHARD_ARRAYS, item_bytes

USABLE_MEMORY = 0.85
"""Of a machine's memory; the rest is the system's, Python's and a second index version's header."""
# Fixed, not derived from the gallery: so a larger one or a tighter budget only ever takes choices away.
MACHINE_COUNTS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)
REPLICA_COUNTS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)
SHARDS_ON_A_MACHINE = (1, 2, 4, 8, 16, 32, 48, 64, 96)


@dataclass(frozen=True, slots=True)
class Layout:
    """Machines in service. Every search goes to all ``machines`` of one replica."""

    machine: Machine
    machines: int
    replicas: int
    shards_on_machine: int
    resident_bytes: int
    """On one machine."""
    service_seconds: float
    p95_ms: float

    @property
    def num_machines(self) -> int:
        """Of all replicas."""
        return self.machines * self.replicas

    @property
    def num_shards(self) -> int:
        """Different ones; each is held once a replica."""
        return self.machines * self.shards_on_machine

    @property
    def num_servers(self) -> int:
        """Searches that one machine works on at a time."""
        return int(self.machine.cores // self.shards_on_machine)

    @property
    def dollars_per_hour(self) -> float:
        """Of all replicas."""
        return self.num_machines * self.machine.dollars_per_hour


@dataclass(frozen=True, slots=True)
class NoLayout:
    """Why an index has none: the budget that stands in the way, and the best that can be had."""

    budget: str
    """``recall``, ``p95``, ``qps`` or ``images``."""
    best: float


def cheapest_layout(
    request: PlanRequest, kind: IndexKind, rates: Rates, machines: Sequence[Machine], time_factor: float = 1.0
) -> Layout | NoLayout:
    """The cheapest layout of one kind of index, with all its times multiplied by ``time_factor``."""
    if kind.recall < request.recall:
        return NoLayout("recall", kind.recall)
    shapes = list(_shapes(request, kind, rates, machines, time_factor))
    if not shapes:
        return NoLayout("images", 0.0)
    variation, rpc = rates.service_variation.value, rates.rpc_ms.value
    idle = [rpc + 1e3 * idle_p95_seconds(shape.service_seconds, variation, shape.machines) for shape in shapes]
    in_time = [shape for shape, p95 in zip(shapes, idle, strict=True) if p95 <= request.p95_ms]
    if not in_time:
        return NoLayout("p95", min(idle))
    for shape, replicas in _by_cost(request, in_time):
        seconds = p95_seconds(
            arrivals_per_second=request.qps / replicas,
            service_seconds=shape.service_seconds,
            variation=variation,
            num_machines=shape.machines,
            num_servers=shape.num_servers,
            seed=request.seed,
        )
        if rpc + 1e3 * seconds <= request.p95_ms:
            return Layout(
                shape.machine,
                shape.machines,
                replicas,
                shape.shards_on_machine,
                shape.resident_bytes,
                shape.service_seconds,
                rpc + 1e3 * seconds,
            )
    return NoLayout("qps", max(_capacity(shape) for shape in in_time))


def resident_bytes(request: PlanRequest, kind: IndexKind, machines: int, shards_on_machine: int) -> int:
    """Memory that one of ``machines`` holds its share in: FAISS files, id maps, item tables."""
    rows = math.ceil(request.images / machines)
    per_shard = math.ceil(rows / shards_on_machine)
    return shards_on_machine * kind.shard_bytes(per_shard) + rows * (
        kind.heap_bytes + SHARD_ARRAYS + item_bytes(request)
    )


def service_seconds(kind: IndexKind, rates: Rates, machine: Machine, vectors: float, shards: int) -> float:
    """Time of one search on one machine whose every server is busy: what its cores need, or what its memory lets through."""
    work = kind.search(vectors)
    bandwidth = machine.bandwidth * rates.bandwidth_share.value * rates.flat_scan_share.value
    num_servers = machine.cores // shards
    return max(work.once + work.scan / shards, work.memory_bytes * num_servers / bandwidth)


def _shapes(
    request: PlanRequest, kind: IndexKind, rates: Rates, machines: Sequence[Machine], time_factor: float
) -> Iterator[Layout]:
    """Replicas that fit into memory, as layouts of one replica each."""
    for machine in machines:
        for count in MACHINE_COUNTS:
            for shards in SHARDS_ON_A_MACHINE:
                if shards > machine.cores or request.images < count * shards:
                    continue
                held = resident_bytes(request, kind, count, shards)
                if held > USABLE_MEMORY * machine.memory_gib * GIB:
                    continue
                seconds = time_factor * service_seconds(kind, rates, machine, request.images / count, shards)
                yield Layout(machine, count, 1, shards, held, seconds, math.nan)


def _by_cost(request: PlanRequest, shapes: Sequence[Layout]) -> Iterator[tuple[Layout, int]]:
    """Shapes with a number of replicas that carries the load, cheapest first."""
    choices = [
        (replicas * shape.dollars_per_hour, replicas * shape.machines, shape.shards_on_machine, order, replicas)
        for order, shape in enumerate(shapes)
        for replicas in REPLICA_COUNTS
        if replicas >= request.min_replicas and request.qps <= replicas * _capacity(shape)
    ]
    for *_, order, replicas in sorted(choices):
        yield shapes[order], replicas


def _capacity(shape: Layout) -> float:
    """Searches a second of one replica at the highest load."""
    return MAX_LOAD * shape.num_servers / shape.service_seconds
