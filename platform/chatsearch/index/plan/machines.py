"""Machines that a plan reckons with, and what they cost.

AWS instances, Linux, on demand, us-east-1. Memory and virtual cores are those of the instance's data sheet; two virtual cores are one
core. Memory bandwidth is the socket's peak (Xeon Sapphire Rapids: 8 channels of DDR5-4800, 307 GB/s for 48 cores), shared out by cores.
Prices are list prices as of ``PRICES_DATED``; they change, so a file of your own (``--machines``) replaces the whole table.
"""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import Field, TypeAdapter, ValidationError

from chatsearch.config import Config
from chatsearch.errors import ConfigError, MissingInputError

PRICES_DATED = "2025-06"
GIB = 2**30


class Machine(Config):
    """One type of machine."""

    name: str
    cores: float = Field(gt=0)
    """Physical cores."""
    memory_gib: float = Field(gt=0)
    bandwidth: float = Field(gt=0)
    """Peak memory bandwidth of all cores, bytes/s."""
    dollars_per_hour: float = Field(gt=0)
    gpu_flops: float = Field(0.0, ge=0)
    """Dense bf16 FLOP/s of all its GPUs; 0 without."""
    gpu: str = ""


def _r7i(size: str, cores: int, memory_gib: int, price: float) -> Machine:
    return Machine(
        name=f"r7i.{size}",
        cores=cores,
        memory_gib=memory_gib,
        bandwidth=307e9 * cores / 48,
        dollars_per_hour=price,
    )


CATALOGUE: tuple[Machine, ...] = (
    _r7i("2xlarge", 4, 64, 0.5292),
    _r7i("4xlarge", 8, 128, 1.0584),
    _r7i("8xlarge", 16, 256, 2.1168),
    _r7i("16xlarge", 32, 512, 4.2336),
    _r7i("24xlarge", 48, 768, 6.3504),
    _r7i("48xlarge", 96, 1536, 12.7008),
    Machine(name="c7i.4xlarge", cores=8, memory_gib=32, bandwidth=51e9, dollars_per_hour=0.714),
    Machine(name="c7i.16xlarge", cores=32, memory_gib=128, bandwidth=205e9, dollars_per_hour=2.856),
    Machine(name="c7i.48xlarge", cores=96, memory_gib=384, bandwidth=614e9, dollars_per_hour=8.568),
    # NVIDIA's data sheet of the A10G: 70 TFLOP/s of bf16 tensor cores without sparsity.
    Machine(
        name="g5.2xlarge",
        cores=4,
        memory_gib=32,
        bandwidth=50e9,
        dollars_per_hour=1.212,
        gpu="1 x A10G",
        gpu_flops=70e12,
    ),
    Machine(
        name="g5.4xlarge",
        cores=8,
        memory_gib=64,
        bandwidth=100e9,
        dollars_per_hour=1.624,
        gpu="1 x A10G",
        gpu_flops=70e12,
    ),
)


def read_machines(path: str) -> tuple[Machine, ...]:
    """Machines from a JSON file: a list of objects with the fields of :class:`Machine`.

    Raises:
        MissingInputError: if there is no such file.
        ConfigError: if it is no such list, or empty.
    """
    if not Path(path).is_file():
        raise MissingInputError(f"There is no file of machines at {path}. Write a JSON list of them, or leave it out.")
    try:
        machines = TypeAdapter(tuple[Machine, ...]).validate_python(json.loads(Path(path).read_bytes()))
    except (ValueError, ValidationError) as error:
        fields = ", ".join(Machine.model_fields)
        raise ConfigError(f"{path} is no list of machines with the fields {fields}: {error}.") from error
    if not machines:
        raise ConfigError(f"{path} lists no machine. Name at least one, or leave it out.")
    return machines
