"""The plan of a training run, for ``--dry-run``: parameters, what a step holds, FLOPs, memory and hours.

Light: it reads manifests and, where the inputs are there, a few documents.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from chatsearch.model.size import Part, searcher_parts, vision_parameters
from chatsearch.train.config import TrainConfig
from chatsearch.train.flops import StepFlops, step_flops
from chatsearch.train.memory import GIB, MIB, Stage, activation_bytes, bytes_per_parameter, state_bytes
from chatsearch.train.volume import StreamVolume, Volume, expected, most, total

_STAGES: tuple[Stage, ...] = (0, 1, 2)


@dataclass(frozen=True, slots=True)
class Device:
    """What a worker computes on. Peaks are dense, in FLOP/s."""

    bf16: float
    fp32: float
    gib: float | None
    """Memory; None where it is the machine's."""
    each: str = "device"


DEVICES = {
    # NVIDIA's data sheets of A100, H100 SXM and H200 SXM; memory as the driver reports it. PyTorch multiplies fp32 without TF32.
    "a100-40gb": Device(312e12, 19.5e12, 40.0),
    "a100-80gb": Device(312e12, 19.5e12, 80.0),
    "h100-80gb": Device(989e12, 67e12, 79.6),
    "h200-141gb": Device(989e12, 67e12, 140.4),
    # AVX2 at 2.5 GHz: two fused multiply-adds of eight numbers a cycle. Without AMX bf16 is no faster.
    "cpu-core": Device(80e9, 80e9, None, "thread"),
}

_DRIVER_NAMES = (
    (("A100", "40GB"), "a100-40gb"),
    (("A100", "80GB"), "a100-80gb"),
    (("H100", "HBM3"), "h100-80gb"),  # the PCIe and NVL cards are slower than the SXM module of the table
    (("H200",), "h200-141gb"),
)
"""What the driver's name of a GPU holds."""


def device_name(config: TrainConfig) -> str:
    """The device the plan reckons with."""
    if config.plan.device != "auto":
        return config.plan.device
    return "a100-80gb" if config.use_gpu else "cpu-core"


def peak_flops(config: TrainConfig) -> float:
    """FLOP/s of all workers together if every cycle counted, in the precision of the run."""
    device = DEVICES[device_name(config)]
    units = config.world_size * (config.threads_per_worker if device.each == "thread" else 1)
    return units * (device.fp32 if config.precision == "fp32" else device.bf16)


def known_peak_flops(config: TrainConfig, name: str | None) -> float | None:
    """:func:`peak_flops` where it is no guess: of the device that ``plan.device`` names, else of one that says what it is.

    Args:
        config: of the run.
        name: of the GPU, as its driver calls it; None on a CPU, which does not say.
    """
    if config.plan.device != "auto":
        return peak_flops(config)
    known = next((device for words, device in _DRIVER_NAMES if name and all(word in name for word in words)), None)
    return peak_flops(config.replace(plan=config.plan.replace(device=known))) if known else None


def training_hours(config: TrainConfig, flops: StepFlops) -> float:
    """Hours of all steps at the stated MFU. What is computed twice is no part of MFU, and of its numerator."""
    return config.steps * flops.model / (peak_flops(config) * config.plan.mfu) / 3600


def training_plan(config: TrainConfig) -> str:
    """What the run is going to take, as text."""
    streams = expected(config)
    mean, limit = total(streams), most(config)
    mean_flops, limit_flops = step_flops(config, mean), step_flops(config, limit)
    sections = {
        "size": _sizes(config),
        "step": _step(config, streams, mean, limit),
        "flops": _flops(config, mean_flops, limit_flops),
        "memory": _memory(config, mean, limit),
        "time": _time(config, mean_flops, limit_flops),
    }
    return "\n".join(_section(name, lines) for name, lines in sections.items())


def _section(name: str, lines: Iterable[str]) -> str:
    return "\n".join(f"{name if number == 0 else '':<6} {line}".rstrip() for number, line in enumerate(lines))


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns of one width each; the first is left, the others right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            f"{cell:<{w}}" if n == 0 else f"{cell:>{w}}" for n, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]


def _sizes(config: TrainConfig) -> list[str]:
    parts = searcher_parts(config.model, config.lora)
    whole = Part("searcher", sum(p.parameters for p in parts), sum(p.trained for p in parts))
    encoder = Part("frozen encoder", vision_parameters(config.model.vision), 0)
    rows = [("parameters", "all", "trained")]
    rows += [(p.name, f"{p.parameters:,}", f"{p.trained:,}") for p in (*parts, whole, encoder)]
    return _table(rows)


def _step(config: TrainConfig, streams: Sequence[StreamVolume], mean: Volume, limit: Volume) -> list[str]:
    rows: list[tuple[str, ...]] = [("a step", "documents", "images", "tokens", "of them labelled")]
    rows += [(f"streams.{number}", *_counts(found.volume)) for number, found in enumerate(streams)]
    rows.append(("all, on average", *_counts(mean)))
    rows.append((f"at most, rows of {config.max_length:,} full", *_counts(limit)))
    lines = _table(rows)
    for number, (stream, found) in enumerate(zip(config.streams, streams, strict=True)):
        drawn = f"{config.steps * stream.per_step:,} drawn in {config.steps:,} steps"
        if found.num_documents:
            drawn += f", {config.steps * stream.per_step / found.num_documents:.1f} passes"
        lines.append(f"streams.{number}: {found.origin}; {drawn}")
    return lines


def _counts(volume: Volume) -> tuple[str, ...]:
    return tuple(f"{n:,.0f}" for n in (volume.documents, volume.images, volume.positions, volume.labels))


def _flops(config: TrainConfig, mean: StepFlops, limit: StepFlops) -> list[str]:
    rows = [("FLOPs a step", "on average", "at most")]
    limits = limit.by_part()
    rows += [(name, _flop(value), _flop(limits[name])) for name, value in mean.by_part().items()]
    rows.append(("all", _flop(mean.model), _flop(limit.model)))
    rows.append(("recomputed, on top", _flop(mean.recomputed), _flop(limit.recomputed)))
    return [
        *_table(rows),
        "6 x weights x tokens where trained, 4 where frozen and gradients pass, 2 in the frozen encoder (tokens: its patches);",
        "attention 12 x layers x width x document length squared; M_t at labelled tokens",
    ]


def _memory(config: TrainConfig, mean: Volume, limit: Volume) -> list[str]:
    workers, held = config.world_size, state_bytes(config).total
    unit, size = ("GiB", GIB) if held >= GIB else ("MiB", MIB)
    rows: list[tuple[str, ...]] = [
        (f"{unit} a worker", "weights", "gradients", "optimiser", "encoder", "all", "bytes a trained parameter")
    ]
    for stage in _STAGES:
        state = state_bytes(config, stage=stage)
        weight, gradient, optimiser = bytes_per_parameter(config.precision, stage, workers)
        formula = f"{weight:.3g} + {gradient:.3g} + {optimiser:.3g} = {weight + gradient + optimiser:.3g}"
        parts = (state.weights, state.gradients, state.optimiser, state.encoder, state.total)
        mark = " (this run)" if stage == config.zero_stage else ""
        rows.append((f"ZeRO {stage}{mark}", *(f"{part / size:,.2f}" for part in parts), formula))
    lines = [*_table(rows), f"{_formula(config)}, N = {workers} workers; frozen parameters cost their weights"]
    if config.zero_stage:
        update = 4.0 / workers * sum(part.trained for part in searcher_parts(config.model, config.lora))
        lines.append(
            f"on top while it updates: {update / size:,.2f} of gradients in fp32 (4/N), and DeepSpeed's buckets"
        )
    mean_size, limit_size = (activation_bytes(config, volume) / size for volume in (mean, limit))
    kept = "with" if config.activation_checkpointing else "without"
    lines.append(
        f"activations of a micro-batch, an ESTIMATE: {mean_size:,.2f} on average, {limit_size:,.2f} at most, {kept} "
        "activation checkpointing"
    )
    device = DEVICES[device_name(config)]
    if device.gib is not None:
        left = device.gib - held / GIB
        verdict = f"{left:,.2f} left beside the state"
        if left < 0:
            verdict = f"{-left:,.2f} too few for the state, the run would be refused at its start"
        lines.append(f"{device_name(config)} has {device.gib:g} GiB: {verdict}")
    return lines


def _formula(config: TrainConfig) -> str:
    if config.precision == "bf16":
        return "ZeRO 0, 1, 2 in bf16: 2+2+12, 2+2+12/N, 2+(2+12)/N"
    return f"ZeRO 0, 1, 2 in {config.precision}: 4+4+8, 4+4+12/N, 4+(4+12)/N"


def _time(config: TrainConfig, mean: StepFlops, limit: StepFlops) -> list[str]:
    name, share = device_name(config), config.plan.mfu
    device = DEVICES[name]
    units = config.world_size * (config.threads_per_worker if device.each == "thread" else 1)
    hours = [training_hours(config, flops) for flops in (mean, limit)]
    return [
        f"{_flop(config.steps * mean.model)} in {config.steps:,} steps on average, {_flop(config.steps * limit.model)} at most",
        f"{_hours(hours[0])} on average, {_hours(hours[1])} at most, on {units} x {name} of {_flop(peak_flops(config) / units)}/s in "
        f"{config.precision}, at {share:.0%} MFU (plan.device, plan.mfu)",
    ]


def _hours(hours: float) -> str:
    return f"{hours:,.1f} hours" if hours >= 1 else f"{60 * hours:.1f} minutes"


def _flop(value: float) -> str:
    for factor, letter in ((1e21, "Z"), (1e18, "E"), (1e15, "P"), (1e12, "T")):
        if value >= factor:
            return f"{value / factor:,.2f} {letter}FLOP"
    return f"{value / 1e9:,.2f} GFLOP"
