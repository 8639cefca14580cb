"""The only module that knows DeepSpeed: ZeRO 0, 1 and 2, on CPU over gloo and on GPU over NCCL.

Gradients. DeepSpeed averages gradients over ranks, and our losses are shares that add up to the loss of the global
step, so each share is multiplied by the world size before it goes backward. Accumulation is a plain sum.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from chatsearch.train.config import TRAINED_PARTS, TrainConfig

_TAG = "state"


@contextmanager
def _hidden(*names: str) -> Iterator[None]:
    """Make optional imports fail for a moment."""
    saved = {name: sys.modules.get(name) for name in names}
    sys.modules.update(dict.fromkeys(names))  # type: ignore[arg-type]
    try:
        yield
    finally:
        for name, module in saved.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module


def _import(use_gpu: bool) -> Any:
    if not use_gpu:
        os.environ["DS_ACCELERATOR"] = "cpu"
    # Its autotuner imports mlflow where it can. Nobody needs that in a worker, and it costs over a second.
    with _hidden() if "mlflow" in sys.modules else _hidden("mlflow"):
        import deepspeed
    import deepspeed.ops

    # An optional shared-memory collective that would be compiled with g++ for close to a minute; gloo does its work.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    return deepspeed


def engine_settings(config: TrainConfig) -> dict[str, Any]:
    """DeepSpeed's own configuration. The documents of a micro-batch are ours to count: it is told 1."""
    optimiser = config.optimiser
    return {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": config.accumulation,
        "gradient_clipping": optimiser.max_grad_norm,
        "zero_optimization": {"stage": config.zero_stage},
        "bf16": {"enabled": config.precision == "bf16"},
        "optimizer": {
            "type": "AdamW",
            "params": {
                "lr": optimiser.learning_rate,
                "betas": list(optimiser.betas),
                "eps": optimiser.epsilon,
                "weight_decay": optimiser.weight_decay,
                # The fused CPU optimiser would be compiled on the first start.
                "torch_adam": not config.use_gpu,
            },
        },
        "zero_allow_untested_optimizer": True,
        "steps_per_print": 10**9,
        "wall_clock_breakdown": False,
    }


def parameter_groups(searcher: nn.Module, config: TrainConfig) -> list[dict[str, Any]]:
    """Trainable parameters by the multiplier of the part they belong to, in the searcher's own order."""
    groups: dict[float, list[nn.Parameter]] = {}
    for name, parameter in searcher.named_parameters():
        part = name.partition(".")[0]
        assert part in TRAINED_PARTS, f"{part} is not among TRAINED_PARTS"
        if parameter.requires_grad:
            groups.setdefault(config.optimiser.multipliers.get(part, 1.0), []).append(parameter)
    return [{"params": group, "multiplier": multiplier} for multiplier, group in groups.items()]


class Engine:
    """A module whose optimiser state is sharded over the ranks of the default process group."""

    def __init__(self, module: nn.Module, groups: list[dict[str, Any]], config: TrainConfig) -> None:
        deepspeed = _import(config.use_gpu)
        self._multipliers = [group["multiplier"] for group in groups]
        self._zero_stage = config.zero_stage
        self._world_size = torch.distributed.get_world_size()
        self._engine, *_ = deepspeed.initialize(
            model=module,
            model_parameters=[{"params": group["params"]} for group in groups],
            config=engine_settings(config),
            dist_init_required=False,
        )
        self._engine.train()

    @property
    def device(self) -> torch.device:
        """Where batches go."""
        return self._engine.device

    def losses(self, *inputs: Any) -> dict[str, Tensor]:
        """The module's outputs, prepared for :meth:`backward`."""
        return self._engine(*inputs)

    def backward(self, loss: Tensor) -> None:
        """Accumulate the gradients of one micro-batch's share of the loss."""
        self._engine.backward(loss * self._world_size, scale_wrt_gas=False)

    def end_micro_batch(self) -> None:
        """Count a micro-batch that is not the last of its step."""
        assert not self._engine.is_gradient_accumulation_boundary()
        self._engine.step()

    def update(self, learning_rate: float) -> float:
        """Update the weights after the last micro-batch; returns the gradients' norm before clipping."""
        assert self._engine.is_gradient_accumulation_boundary()
        for group, multiplier in zip(self._engine.optimizer.param_groups, self._multipliers, strict=True):
            group["lr"] = learning_rate * multiplier
        self._engine.step()
        norm = self._engine.get_global_grad_norm()
        return float(norm) if norm is not None else 0.0

    def save(self, folder: str) -> None:
        """Write this rank's part of the state. All ranks call it."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        self._engine.save_checkpoint(folder, tag=_TAG, save_latest=False)
        for script in Path(folder).glob("*.py"):  # DeepSpeed adds tools of its own; a checkpoint holds data only
            script.unlink()

    def load(self, folder: str) -> None:
        """Restore weights, optimiser and counters. All ranks call it, on files that have been verified."""
        path, _ = self._engine.load_checkpoint(folder, tag=_TAG, load_lr_scheduler_states=False)
        assert path is not None, f"DeepSpeed found no state below {folder}"

    def full_precision_weights(self, folder: str, prefix: str) -> dict[str, Tensor]:
        """fp32 weights on the CPU, joined from the shards of all ranks; names without ``prefix``. For verified files only."""
        if self._zero_stage:
            from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

            with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
                weights = get_fp32_state_dict_from_zero_checkpoint(folder, tag=_TAG)
            weights = _completed(weights, self._engine.module)
        else:
            weights = self._engine.module.state_dict()
        return {name.removeprefix(prefix): tensor.detach().float().cpu() for name, tensor in weights.items()}


def _completed(weights: dict[str, Tensor], module: nn.Module) -> dict[str, Tensor]:
    """With what DeepSpeed leaves out: frozen parameters under ZeRO 1, second names of a parameter in one module."""
    names: dict[nn.Parameter, list[str]] = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        names.setdefault(parameter, []).append(name)
    for parameter, group in names.items():
        held = next((weights[name] for name in group if name in weights), None)
        if held is None and not parameter.requires_grad:
            held = parameter.detach()
        if held is not None:
            weights |= dict.fromkeys(group, held)
    return weights
