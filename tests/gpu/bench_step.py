"""G1: one training step of the 7B shape on one GPU. No Ray, no download, ten minutes.

    python tests/gpu/bench_step.py --out g1.json                        # an H100 or H200
    python tests/gpu/bench_step.py --out g1.json --tiny --device cpu    # the whole script in seconds; its figures mean nothing

A step is forward, backward, clipping and AdamW on 8 rows of 1,024 packed positions, or on the same documents padded: in
micro-batches of at most as many slots, one document a row, each padded to its longest, whose gradients are summed.

What is real: every layer, width, equation, the packing, activation checkpointing of every decoder layer. What is not:
documents (synthetic lengths, random ids), weights and picture features (random, the frozen encoder does not run), and the
optimiser's precision: weights, gradients and both moments are bf16, 8 bytes a parameter or 56 GB; a run's fp32 masters
and moments (12 bytes more) take ZeRO over several GPUs. ``forward_backward_ms`` is given apart.

MFU: FLOPs that the model needs (``chatsearch.train.flops``: no padding, nothing twice) over the step's time and the data
sheet's dense bf16 peak. ``hfu`` counts what checkpointing computes twice as well.

Results are written after every measurement, so a run that is cut off keeps what it has.
"""

# The script runs from anywhere, so the path comes before the imports.
# ruff: noqa: E402

from __future__ import annotations

import argparse
import datetime
import gc
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "platform")]
os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")

import numpy as np
import torch
from chatsearch.errors import ConfigError
from chatsearch.model.objective import IGNORE
from chatsearch.model.queue import FeatureQueue, content_id
from chatsearch.model.searcher import ChatSearcher
from chatsearch.train.flops import StepFlops, step_flops
from chatsearch.train.plan import DEVICES
from chatsearch.train.step import MicroBatch, Targets, losses
from torch import Tensor, nn

from jobs.recipes import model
from jobs.recipes.train import paper_align
from tests.gpu.steps import Size, Step, packed_step, padded_step
from tests.gpu.synthetic_documents import documents, row_groups

GIB = 2**30
MIN_STEPS = 3
"""Fewer than these are no measurement."""


@dataclass(frozen=True)
class Variant:
    """One thing to measure."""

    layout: str
    attention: str
    compiled: bool


VARIANTS = (
    # What is wanted most comes first: time may run out.
    Variant("packed", "varlen", False),
    Variant("packed", "sdpa", False),
    Variant("padded", "sdpa", False),
    Variant("packed", "varlen", True),
    Variant("padded", "sdpa", True),
    Variant("packed", "flex", True),
    Variant("packed", "sdpa", True),
    Variant("padded", "varlen", False),
    Variant("packed", "flex", False),
    Variant("padded", "varlen", True),
)


PAPER = Size(rows=8, length=1024, max_length=512, num_documents=320, num_steps=10)
TINY = Size(rows=2, length=256, max_length=128, num_documents=40, num_steps=3)


# ---- the step -----------------------------------------------------------------------------------------------


class Runner:
    """Model, optimiser and queue on the device, in bf16 from the first byte."""

    def __init__(self, config: Any, device: torch.device) -> None:
        self.config, self.device = config, device
        torch.manual_seed(0)
        with default_dtype(torch.bfloat16), device:
            self.searcher = ChatSearcher(config.model).train()
        self.searcher.enable_activation_checkpointing()
        self.queue = self._empty_queue()
        self.optimiser = torch.optim.AdamW(self.searcher.parameters(), lr=1e-6, weight_decay=0.0, fused=True)
        decoder = self.searcher.language.decoder
        # On a CPU the graph is captured and not compiled: that takes minutes and tells nothing.
        backend = "inductor" if device.type == "cuda" else "eager"
        self._layers = decoder.layers
        self._compiled = nn.ModuleList([torch.compile(layer, backend=backend) for layer in decoder.layers])

    def _empty_queue(self) -> FeatureQueue:
        size = self.config.objective.queue_size
        return FeatureQueue(size, self.config.model.vision.feature_dim).to(self.device)

    def use(self, variant: Variant) -> None:
        """Switch kernel and compilation and empty the queue; the weights stay."""
        torch.compiler.reset()
        self.queue = self._empty_queue()
        self.searcher.language.attention = variant.attention
        self.searcher.language.decoder.layers = self._compiled if variant.compiled else self._layers

    def load(self, step: Step) -> tuple[list[MicroBatch], Tensor, Tensor, Targets]:
        """The step on the device; pictures have the same random features in either layout."""
        draw = torch.Generator(self.device).manual_seed(1)
        vision, nums = self.config.model.vision, [batch.num_images for batch in step.batches]
        cls_ID = torch.randn(sum(nums), vision.feature_dim, generator=draw, device=self.device)
        shape = (sum(nums), vision.num_tokens, vision.token_dim)
        tokens_IKE = torch.randn(shape, generator=draw, device=self.device, dtype=torch.bfloat16)
        inputs = zip(step.batches, cls_ID.split(nums), tokens_IKE.split(nums), strict=True)
        nowhere = torch.zeros(0, dtype=torch.int64, device=self.device)
        parts = [MicroBatch.of(batch, nowhere, *features) for batch, *features in inputs]
        hashes = [content_id(name) for batch in step.batches for name in batch.image_hashes]
        ids_I = torch.tensor(hashes, device=self.device)
        words = sum((part.labels_RL != IGNORE).sum() for part in parts)
        images = sum(part.image_target_I.sum() for part in parts)
        return parts, cls_ID, ids_I, Targets(words=torch.as_tensor(words), images=torch.as_tensor(images))

    def forward_backward(self, loaded: tuple[list[MicroBatch], Tensor, Tensor, Targets]) -> Tensor:
        """Gradients of the step; returns its loss."""
        parts, cls_ID, ids_I, targets = loaded
        candidates = self.queue.enqueue(cls_ID, ids_I)
        total = torch.zeros((), device=self.device)
        places = candidates.slots_N.split([len(part.cls_ID) for part in parts])
        for part, places_I in zip(parts, places, strict=True):
            batch = replace(part, candidate_I=places_I)
            loss = losses(self.searcher, batch, candidates, targets, self.config.objective)["loss"]
            loss.backward()
            total += loss.detach()
        return total

    def update(self) -> None:
        """Clip and AdamW."""
        nn.utils.clip_grad_norm_(self.searcher.parameters(), self.config.optimiser.max_grad_norm)
        self.optimiser.step()
        self.optimiser.zero_grad()

    def synchronize(self) -> None:
        """Wait until the device is done."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def release(self) -> None:
        """Give back what a step has left behind."""
        self.optimiser.zero_grad()
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    def peak_gib(self) -> float | None:
        """The most memory that tensors have taken since :meth:`release`."""
        return torch.cuda.max_memory_allocated() / GIB if self.device.type == "cuda" else None


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """New tensors have this type, so that no fp32 copy of 7B weights is ever made."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


# ---- measurements -------------------------------------------------------------------------------------------


def guarded(measurement: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What was measured, or why nothing was: one variant that fails does not end the others."""
    try:
        return {"status": "ok"} | measurement()
    except torch.OutOfMemoryError as error:
        return {"status": "out_of_memory", "reason": str(error).split(". ")[0]}
    except ConfigError as error:
        return {"status": "unavailable", "reason": str(error)}
    except TimeoutError as error:
        return {"status": "no_time", "reason": str(error)}
    except Exception as error:
        return {"status": "failed", "reason": f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"}


def measure(runner: Runner, steps: Sequence[Step], num_steps: int, deadline: float) -> dict[str, Any]:
    """Time steps over the given ones in turn, after each of them has run once.

    Raises:
        TimeoutError: the deadline came before enough steps were measured.
    """
    runner.release()
    loaded = [runner.load(step) for step in steps]
    begin = time.monotonic()
    warm_up_losses = []
    for inputs in loaded:
        warm_up_losses.append(runner.forward_backward(inputs))
        runner.update()
        runner.synchronize()
        if time.monotonic() > deadline:
            raise TimeoutError("the time was spent in the warm-up")
    warm_up = time.monotonic() - begin
    both, whole, order = [], [], []
    while len(whole) < num_steps and (len(whole) < MIN_STEPS or time.monotonic() < deadline):
        number = len(whole) % len(loaded)
        runner.synchronize()
        start = time.perf_counter()
        loss = runner.forward_backward(loaded[number])
        runner.synchronize()
        middle = time.perf_counter()
        runner.update()
        runner.synchronize()
        whole.append(time.perf_counter() - start)
        both.append(middle - start)
        order.append(number)
    first, last = float(warm_up_losses[0]), float(loss)
    if not np.isfinite([first, last]).all():
        raise ValueError(f"the loss is {first} in the first step and {last} in the last")
    flops = [step_flops(runner.config, step.volume) for step in steps]
    found = figures(runner, steps, order, whole, both, flops)
    return found | {"warm_up_s": round(warm_up, 2), "first_loss": first, "last_loss": last}


def figures(  # noqa: PLR0917
    runner: Runner,
    steps: Sequence[Step],
    order: Sequence[int],
    whole: Sequence[float],
    both: Sequence[float],
    flops: Sequence[StepFlops],
) -> dict[str, Any]:
    """Medians over steps, with the spread; rates are of each step's own volume."""
    peak = peak_flops(runner.device)

    def rate(amount: Callable[[int], float]) -> float:
        return statistics.median(amount(number) / seconds for number, seconds in zip(order, whole, strict=True))

    milliseconds = [1000 * seconds for seconds in whole]
    return {
        "num_steps": len(whole),
        "step_ms": round(statistics.median(milliseconds), 3),
        "step_ms_runs": [round(value, 3) for value in milliseconds],
        "step_ms_min_max": [round(min(milliseconds), 3), round(max(milliseconds), 3)],
        "forward_backward_ms": round(1000 * statistics.median(both), 3),
        "update_ms": round(1000 * statistics.median(w - b for w, b in zip(whole, both, strict=True)), 3),
        "tokens_per_s": round(rate(lambda n: steps[n].volume.positions), 1),
        "images_per_s": round(rate(lambda n: steps[n].volume.images), 2),
        "documents_per_s": round(rate(lambda n: steps[n].volume.documents), 2),
        "slots_per_s": round(rate(lambda n: steps[n].slots), 1),
        "slot_fill": round(sum(s.volume.positions for s in steps) / sum(s.slots for s in steps), 4),
        "micro_batches_per_step": sum(len(s.batches) for s in steps) / len(steps),
        "mfu": None if peak is None else round(rate(lambda n: flops[n].model) / peak, 4),
        "hfu": None if peak is None else round(rate(lambda n: flops[n].model + flops[n].recomputed) / peak, 4),
        "peak_memory_gib": runner.peak_gib(),
    }


def peak_flops(device: torch.device) -> float | None:
    """Dense bf16 peak of the device; None for one whose data sheet is not in the table."""
    if device.type == "cpu":
        return DEVICES["cpu-core"].bf16 * torch.get_num_threads()
    name = torch.cuda.get_device_name(device)
    if "H200" in name:
        return DEVICES["h200-141gb"].bf16
    # The PCIe and NVL cards are slower than the SXM module of the table.
    return DEVICES["h100-80gb"].bf16 if "H100" in name and "HBM3" in name else None


def summary(measurements: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """G1's two figures: the best packed MFU, and packed over padded in documents a second, best against best."""
    done = [entry for entry in measurements if entry["status"] == "ok"]

    def best(layout: str, key: str) -> float | None:
        return max((e[key] for e in done if e["layout"] == layout and e[key] is not None), default=None)

    packed, padded = best("packed", "documents_per_s"), best("padded", "documents_per_s")
    return {
        "goal": "MFU >= 0.50 packed, and >= 1.8x the same documents padded",
        "best_packed_mfu": best("packed", "mfu"),
        "packed_over_padded": round(packed / padded, 3) if packed and padded else None,
    }


def write(path: Path, results: dict[str, Any]) -> None:
    """All results so far, in one piece or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(results, indent=1) + "\n")
    os.replace(part, path)


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns 0 when every variant was measured, is unavailable here, or did not fit; 1 when one failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="the tiny shape: tries the script, measures nothing of use")
    parser.add_argument("--minutes", type=float, default=9.0, help="no variant is begun, and no step, after these")
    options = parser.parse_args(arguments)
    deadline = time.monotonic() + 60 * options.minutes
    device, size = torch.device(options.device), TINY if options.tiny else PAPER
    config = paper_align().replace(
        model=model.tiny() if options.tiny else model.paper(), features="synthetic", num_workers=1
    )

    examples = documents(config.model, size.num_documents, size.max_length)
    groups = row_groups(examples, size.length, size.rows)
    steps = {
        "packed": [packed_step(group, size) for group in groups],
        "padded": [padded_step(group, size) for group in groups],
    }
    begin = time.monotonic()
    runner = Runner(config, device)
    runner.synchronize()
    results: dict[str, Any] = {
        "what": __doc__,
        "command": " ".join(sys.orig_argv),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "torch": torch.__version__,
        "peak_flops": peak_flops(device),
        "parameters": sum(parameter.numel() for parameter in runner.searcher.parameters()),
        "build_s": round(time.monotonic() - begin, 2),
        "documents": [vars_of(step.volume) for step in steps["packed"]],
        "measurements": [],
    }
    for variant in VARIANTS:
        if time.monotonic() > deadline:
            found: dict[str, Any] = {"status": "no_time", "reason": f"{options.minutes} minutes were over"}
        else:
            found = guarded(lambda v=variant: run(runner, v, steps, size, deadline))  # type: ignore[misc]
        results["measurements"].append(vars_of(variant) | found)
        results["summary"] = summary(results["measurements"])
        write(options.out, results)
        print(json.dumps(results["measurements"][-1]), flush=True)
    print(json.dumps(results["summary"]), flush=True)
    return int(any(entry["status"] == "failed" for entry in results["measurements"]))


def run(runner: Runner, variant: Variant, steps: dict[str, list[Step]], size: Size, deadline: float) -> dict[str, Any]:
    """Measure one variant."""
    runner.use(variant)
    return measure(runner, steps[variant.layout], size.num_steps, deadline)


def vars_of(value: Any) -> dict[str, Any]:
    """Fields of a data class, with or without slots."""
    return {name: getattr(value, name) for name in value.__dataclass_fields__}


if __name__ == "__main__":
    raise SystemExit(main())
