"""Hours and money of the two phases that end: embedding the pictures and building the index."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from chatsearch.index.plan.figure import Figure, joint_factor, weakest_source
from chatsearch.index.plan.kinds import IndexKind
from chatsearch.index.plan.layout import Layout
from chatsearch.index.plan.machines import GIB, Machine
from chatsearch.index.plan.rates import Rates
from chatsearch.index.plan.request import PlanRequest

BUILD_HEADROOM = 2.3
"""Memory of a builder over the bytes of its shard: 1.3 times the index that it makes, and the shard's vectors once more."""


@dataclass(frozen=True, slots=True)
class Phase:
    """Work that ends."""

    machine: Machine
    num_machines: int
    hours: Figure
    dollars: Figure


def embed_phase(request: PlanRequest, rates: Rates, machines: Sequence[Machine]) -> Phase | None:
    """Every picture through the encoder once, on the machine that does it for the least; None where no machine can."""
    offers = [(machine, *_pictures_per_second(request, rates, machine)) for machine in machines]
    offers = [offer for offer in offers if offer[1] > 0]
    if not offers:
        return None
    machine, rate, used = min(offers, key=lambda offer: offer[0].dollars_per_hour / offer[1])
    hours = request.images / rate / 3600
    return _phase(machine, hours, request.embed_hours, joint_factor(*used), weakest_source(*used))


def _pictures_per_second(request: PlanRequest, rates: Rates, machine: Machine) -> tuple[float, tuple[Figure, ...]]:
    if rates.embed_images is not None:
        return machine.cores * rates.embed_images.value, (rates.embed_images,)
    on_gpu = machine.gpu_flops * rates.gpu_share.value / (request.image_gflops * 1e9)
    decoded = machine.cores * rates.decode_images.value
    return min(on_gpu, decoded), (rates.gpu_share if on_gpu < decoded else rates.decode_images,)


def build_phase(request: PlanRequest, kind: IndexKind, layout: Layout, machines: Sequence[Machine]) -> Phase:
    """The whole index once, on the machine whose cores cost least of those that can hold a shard in the making."""
    shard = kind.shard_bytes(math.ceil(request.images / layout.num_shards))
    roomy = [machine for machine in machines if machine.memory_gib * GIB >= BUILD_HEADROOM * shard]
    machine = min(roomy or [layout.machine], key=lambda machine: machine.dollars_per_hour / machine.cores)
    hours = kind.build_seconds / machine.cores / 3600
    return _phase(machine, hours, request.build_hours, kind.build_factor, kind.build_source)


def _phase(machine: Machine, machine_hours: float, within: float, factor: float, source: str) -> Phase:
    num_machines = max(1, math.ceil(machine_hours / within))
    return Phase(
        machine,
        num_machines,
        Figure.about(machine_hours / num_machines, factor, source),
        Figure.about(machine_hours * machine.dollars_per_hour, factor, f"hours x list price; hours {source}"),
    )
