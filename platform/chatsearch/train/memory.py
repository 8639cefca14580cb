"""Memory of a worker: the state exactly, by ZeRO stage; activations as an estimate; and whether a device can hold it.

State, in bytes a trained parameter on N workers (weights + gradients + optimiser):

    bf16, ZeRO 0 / 1 / 2        2 + 2 + 12      2 + 2 + 12/N     2 + (2 + 12)/N
    fp32 and mixed              4 + 4 +  8      4 + 4 + 12/N     4 + (4 + 12)/N

bf16 is the table of the ZeRO paper (arXiv 1910.02054): the optimiser holds fp32 masters and two moments. With fp32 weights
DeepSpeed's ZeRO keeps masters of its own, plain AdamW needs none. Frozen parameters cost their weights alone.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from chatsearch.errors import MemoryBudgetError
from chatsearch.model.size import perceiver_matrices, searcher_parts, vision_parameters
from chatsearch.train.config import TrainConfig
from chatsearch.train.flops import LABELS_PER_CHUNK
from chatsearch.train.volume import Volume

MIB, GIB = 2**20, 2**30
_CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
Stage = Literal[0, 1, 2]


@dataclass(frozen=True, slots=True)
class StateBytes:
    """What a worker holds between steps and at the end of a backward pass."""

    weights: float
    gradients: float
    optimiser: float
    encoder: float
    """The frozen vision encoder in fp32; 0 where features come from a store."""

    @property
    def total(self) -> float:
        """All of it."""
        return self.weights + self.gradients + self.optimiser + self.encoder


def bytes_per_parameter(precision: str, stage: Stage, world_size: int) -> tuple[float, float, float]:
    """Bytes that a trained parameter costs a worker as weight, gradient and in the optimiser."""
    size = 2.0 if precision == "bf16" else 4.0
    masters_and_moments = 8.0 if stage == 0 and precision != "bf16" else 12.0
    return (
        size,
        size / world_size if stage == 2 else size,
        masters_and_moments / world_size if stage else masters_and_moments,
    )


def state_bytes(config: TrainConfig, *, stage: Stage | None = None, precision: str | None = None) -> StateBytes:
    """Memory of a worker's state, of this configuration or with another ZeRO stage or precision."""
    stage = config.zero_stage if stage is None else stage
    weight, gradient, optimiser = bytes_per_parameter(precision or config.precision, stage, config.world_size)
    parts = searcher_parts(config.model, config.lora)
    trained = sum(part.trained for part in parts)
    return StateBytes(
        weights=weight * sum(part.parameters for part in parts),
        gradients=gradient * trained,
        optimiser=optimiser * trained,
        encoder=0.0 if config.features else 4.0 * vision_parameters(config.model.vision),
    )


def activation_bytes(config: TrainConfig, volume: Volume) -> float:
    """Estimate of what the forward pass of one micro-batch keeps for its backward pass, and of the logits.

    Decoder: a layer keeps about 10 hidden states (two of them in fp32), keys and values, and four of the MLP's width for
    each position; under activation checkpointing all layers but one keep one hidden state. Attention itself is taken to
    keep nothing of the size of its matrix.
    """
    language = config.model.language
    share = 1.0 / (config.world_size * config.accumulation)
    size = 4.0 if config.precision == "fp32" else 2.0
    keys = language.hidden_size // language.num_heads * language.num_key_value_heads
    low = config.lora.rank * len(config.lora.projections)  # what an adapter holds between A and B
    layer = (
        size * (8 * language.hidden_size + 2 * keys + 4 * language.intermediate_size + low) + 8 * language.hidden_size
    )
    if config.activation_checkpointing:
        position = layer + language.num_layers * size * language.hidden_size
    else:
        position = language.num_layers * layer
    chunk = min(volume.labels * share, LABELS_PER_CHUNK)
    logits = chunk * language.vocab_size * (size + 8.0)
    return share * (volume.positions * position + volume.images * _perceiver_bytes(config, size)) + logits


def _perceiver_bytes(config: TrainConfig, size: float) -> float:
    """Of one picture."""
    model, perceiver = config.model, config.model.perceiver
    width = perceiver.hidden_size
    num_looking = perceiver_matrices(perceiver, model.vision.token_dim).num_looking
    queries = perceiver.num_layers * (8 * width + 2 * perceiver.intermediate_size) + num_looking * 5 * width
    picture = num_looking * 2 * width + 2 * model.vision.token_dim
    return size * (model.num_queries * queries + model.vision.num_tokens * picture)


def host_memory() -> float:
    """Bytes of memory that this machine or container has."""
    physical = float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    limits = (Path(name).read_text().strip() for name in _CGROUP_LIMITS if Path(name).is_file())
    return min([physical, *(float(limit) for limit in limits if limit.isdecimal())])


def check_memory(config: TrainConfig, held: float, *, where: str, num_sharing: int = 1) -> None:
    """Refuse a run whose state alone is larger than the memory it has, before anything is loaded.

    Args:
        config: of the run.
        held: bytes that are there.
        where: whose memory that is, for the message.
        num_sharing: workers that share it.

    Raises:
        MemoryBudgetError: naming what is needed, what is there, and which changes would fit.
    """
    needed = state_bytes(config)
    if needed.total * num_sharing <= held:
        return
    raise MemoryBudgetError(
        f"Weights, gradients and optimiser take {needed.total / GIB:.3g} GiB in each of {config.world_size} workers "
        f"({config.precision}, ZeRO {config.zero_stage}: {needed.weights / GIB:.3g} + {needed.gradients / GIB:.3g} + "
        f"{needed.optimiser / GIB:.3g}, frozen encoder {needed.encoder / GIB:.3g}), before any activation; {where} has "
        f"{held / GIB:.3g} GiB for {num_sharing} of them. {_advice(config, held / num_sharing)}"
    )


def _advice(config: TrainConfig, held: float) -> str:
    """The settings that would fit, with what they take."""
    choices: dict[str, dict[str, object]] = {
        "zero_stage=2": {"zero_stage": 2},
        "precision=bf16 with zero_stage=2": {"precision": "bf16", "zero_stage": 2},
    }
    needed = {name: state_bytes(config.replace(**changes)).total for name, changes in choices.items()}
    fitting = [f"{name} takes {num_bytes / GIB:.3g} GiB" for name, num_bytes in needed.items() if num_bytes <= held]
    if fitting:
        return f"Change the settings: {', '.join(fitting)}."
    return (
        "No ZeRO stage and no precision fits: take more workers (num_workers) on more machines, a device with more memory, a smaller "
        "model, train adapters (lora.rank=16), or freeze a part (model.freeze_language, model.freeze_words)."
    )
