"""The only module that knows DeepSpeed: ZeRO 0, 1 and 2, on CPU over gloo and on GPU over NCCL.

Gradients. DeepSpeed averages gradients over ranks, and our losses are shares that add up to the loss of the global
step, so each share is multiplied by the world size before it goes backward. Accumulation is a plain sum.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from chatsearch.train.config import TRAINED_PARTS, TrainConfig
from chatsearch.train.state import MOMENTS, Piece


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
                # DeepSpeed's own is compiled on the first start, on a GPU with nvcc. Torch's fused one needs no compiler, and on a
                # CPU it takes a tenth of the time of the plain one.
                "torch_adam": True,
                "fused": True,
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
        part = "control_tokens" if name.startswith("language.control_") else name.partition(".")[0]
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

    def rehearse(self, *inputs: Any) -> None:
        """The module's outputs and the gradients of its ``loss``, of which nothing is left.

        Parameters that share the weights' memory stand in for them, so no hook of DeepSpeed's hears of a gradient. Under ZeRO 2
        each gradient is let go when it is there, as DeepSpeed does with those of other ranks.
        """
        module = self._engine.module
        aliases = {name: p.detach().requires_grad_(p.requires_grad) for name, p in module.named_parameters()}
        if self._zero_stage == 2:
            for alias in aliases.values():
                if alias.requires_grad:
                    alias.register_post_accumulate_grad_hook(_let_go)
        functional_call(module, aliases, inputs)["loss"].backward()

    def pieces(self) -> list[Piece]:
        """The fp32 weights and moments that this rank keeps, in the engine's own memory; without ZeRO each rank has all.

        Whoever changes a weight calls :meth:`spread_weights` then.
        """
        return [piece for name, p in self._engine.module.named_parameters() if (piece := self._piece(name, p))]

    def spread_weights(self) -> None:
        """Bring changed fp32 weights into the weights that the module computes with, on every rank. All ranks call it."""
        if self._zero_stage:
            self._engine.optimizer.update_lp_params()

    def _piece(self, name: str, parameter: Any) -> Piece | None:
        """This rank's part of a parameter; None where it is frozen or lies on other ranks."""
        if not parameter.requires_grad:
            return None
        if not self._zero_stage:
            flat, state = _optimiser_state(self._engine.optimizer, parameter)
            return Piece(name, 0, parameter.numel(), flat, state)
        # DeepSpeed's own note, made for its universal checkpoints, of where a parameter lies in the flat fp32 partition.
        held = parameter._hp_mapping
        if held is None:
            return None
        optimiser = self._engine.optimizer.optimizer
        tensors, state = _optimiser_state(optimiser, optimiser.param_groups[held.param_group_index]["params"][0])
        place = held.get_hp_fragment_address()
        mine = {kind: tensor[place.start : place.start + place.numel] for kind, tensor in tensors.items()}
        return Piece(name, held.lp_fragment_address.start, parameter.numel(), mine, state)


def _let_go(parameter: Tensor) -> None:
    parameter.grad = None


def _optimiser_state(
    optimiser: torch.optim.Optimizer, weight: Tensor
) -> tuple[dict[str, Tensor], MutableMapping[str, Any]]:
    """A weight and its moments, flattened, and where its updates are counted; made where no update has been yet."""
    state = optimiser.state[weight]
    if not state:
        # Beside the weight: a fused update counts on the device.
        state["step"] = torch.tensor(0.0, device=weight.device) if isinstance(optimiser, torch.optim.AdamW) else 0
        state |= {kind: torch.zeros_like(weight, requires_grad=False) for kind in MOMENTS}
    tensors = {"weight": weight, **{kind: state[kind] for kind in MOMENTS}}
    assert all(tensor.dtype == torch.float32 for tensor in tensors.values()), "masters and moments are fp32"
    return {kind: tensor.detach().view(-1) for kind, tensor in tensors.items()}, state
