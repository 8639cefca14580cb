"""Before the first step: whether the documents teach anything, and a rehearsal with the largest micro-batch forward and
backward, so that what cannot run says so at once.

Shapes: R rows of L positions, I images.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.distributed as dist

from chatsearch.data.example import IGNORED
from chatsearch.data.pack import PADDING, Batch
from chatsearch.data.rejections import SHOWN
from chatsearch.data.steps import StepBuilder
from chatsearch.errors import ChatSearchError, MemoryBudgetError, TooManyRejectedError, TrainingError
from chatsearch.train.config import TrainConfig
from chatsearch.train.memory import GIB
from chatsearch.train.trainer import Trainer, num_targets

_NO_MEMORY = ("can't allocate memory", "out of memory")
"""What PyTorch's allocators say, on a CPU in an error without a class of its own."""


_LOOKED_AT = 256
"""Documents of all ranks that are looked at before they are said to teach nothing."""


@dataclass(frozen=True, slots=True)
class _Look:
    """What one rank has seen of the first documents."""

    teaches: bool
    reasons: tuple[str, ...]
    """Of documents without an example, the first ones."""


def check_documents(builder: StepBuilder, config: TrainConfig) -> None:
    """Refuse a run whose first steps give the loss nothing to fall on, on any rank. All ranks call it.

    Each rank looks on until it finds a word or an image that is wanted, mostly no further than its first micro-batch.

    Args:
        builder: of the training batches.
        config: of the stage.

    Raises:
        TooManyRejectedError: there is nothing; with the first reasons.
        ChatSearchError: whatever building a step raises. On every rank it is the first rank's error.
    """
    num_steps = min(math.ceil(_LOOKED_AT / config.per_step), config.steps)
    found: list[_Look | ChatSearchError | None] = [None] * dist.get_world_size()
    dist.all_gather_object(found, _look(builder, config, num_steps))
    looks: list[_Look] = []
    for outcome in found:
        if isinstance(outcome, ChatSearchError):
            raise outcome
        assert outcome is not None
        looks.append(outcome)
    if any(look.teaches for look in looks):
        return
    reasons = [reason for look in looks for reason in look.reasons]
    raise TooManyRejectedError(
        f"None of the first {num_steps * config.per_step} documents of {config.documents} gives the loss anything to fall on, so no "
        f"step was made. First: {'; '.join(reasons[:SHOWN])} Repair these documents and prepare the shards again, or train on others."
    )


def _look(builder: StepBuilder, config: TrainConfig, num_steps: int) -> _Look | ChatSearchError:
    rank, world_size = dist.get_rank(), dist.get_world_size()
    reasons: list[str] = []
    try:
        for step in range(num_steps):
            for batch in builder.build(step, rank, world_size):
                reasons += batch.rejected
                if any(num_targets(batch, config.objective)):
                    return _Look(True, ())
    except ChatSearchError as error:
        return error
    return _Look(False, tuple(reasons[:SHOWN]))


def rehearse(trainer: Trainer, build: Callable[[], Sequence[Batch]]) -> None:
    """Try the largest micro-batch that a step is likely to have. Nothing is updated or drawn. All ranks call it.

    Args:
        trainer: as it is before its next step.
        build: this rank's micro-batches of the next step.

    Raises:
        MemoryBudgetError: a device's memory is too small.
        TrainingError: the model cannot compute it for another reason, which is named.
        ChatSearchError: whatever ``build`` raises. On every rank it is the first rank's error.
    """
    found: list[ChatSearchError | None] = [None] * dist.get_world_size()
    dist.all_gather_object(found, _outcome(trainer, build))
    for error in found:
        if error is not None:
            raise error


def largest(batches: Sequence[Batch], config: TrainConfig) -> Batch:
    """The micro-batch with most rows and images, made larger: every row one document of full length, and one row more.

    Packing differs from step to step, hence the row more, where there are documents to fill it. Images and labels are as
    many to a position as they were; pictures repeat.
    """
    batch = max(batches, key=lambda candidate: (len(candidate.labels), candidate.num_images))
    num_documents = math.ceil(config.per_step / (config.world_size * config.accumulation))
    num_rows, length, block = batch.labels.shape[0], config.max_length, config.model.block_length
    num_rows = max(num_rows, min(num_rows + 1, num_documents))
    filled = max(int((batch.document_ids != PADDING).sum()), 1)
    share_labelled = int((batch.labels != IGNORED).sum()) / filled
    per_row = min(math.ceil(batch.num_images * length / filled), length // block)

    labels_RL = np.full((num_rows, length), IGNORED, dtype=np.int64)
    labels_RL[:, : math.ceil(share_labelled * length)] = 0
    columns = 1 + (length // max(per_row, 1)) * np.arange(per_row, dtype=np.int64)
    num_images = num_rows * per_row
    chosen_I = np.arange(num_images) % max(batch.num_images, 1)
    return replace(
        batch,
        input_ids=np.zeros((num_rows, length), dtype=np.int64),
        labels=labels_RL,
        position_ids=np.tile(np.arange(length), (num_rows, 1)),
        document_ids=np.zeros((num_rows, length), dtype=np.int64),
        image_row=np.repeat(np.arange(num_rows), per_row),
        image_col=np.tile(columns, num_rows),
        image_target=np.ones(num_images, dtype=np.bool_),
        image_first=np.zeros(num_images, dtype=np.bool_),
        image_read=np.ones(num_images, dtype=np.bool_),
        image_sample=np.zeros(num_images, dtype=np.int64),
        image_hashes=tuple(batch.image_hashes[i] for i in chosen_I),
        pixels=None if batch.pixels is None else batch.pixels[chosen_I],
    )


def _outcome(trainer: Trainer, build: Callable[[], Sequence[Batch]]) -> ChatSearchError | None:
    """The error of this rank. What the attempt has held is free when it returns."""
    try:
        batch = largest(build(), trainer.config)
        return _attempt(trainer, batch)
    except ChatSearchError as error:
        return error


def _attempt(trainer: Trainer, batch: Batch) -> ChatSearchError | None:
    config, rank = trainer.config, dist.get_rank()
    rows, length = batch.labels.shape
    shape = f"{rows} rows of {length} positions with {batch.num_images} images"
    try:
        trainer.rehearse(batch)
    except torch.AcceleratorError:
        raise  # the device has failed: another attempt may find it well
    except (RuntimeError, ValueError, IndexError, TypeError) as error:
        said = " ".join(str(error).split())[:300]
        if isinstance(error, torch.OutOfMemoryError) or any(words in said for words in _NO_MEMORY):
            return MemoryBudgetError(
                f"The memory of rank {rank} does not hold the largest micro-batch, {shape}{_held(trainer.device)}: {said}. Raise "
                f"accumulation={config.accumulation} or num_workers, set activation_checkpointing=true, raise "
                f"zero_stage={config.zero_stage}, or lower max_length={config.max_length} or streams.N.per_step."
            )
        return TrainingError(
            f"The model cannot compute a micro-batch of {shape} on rank {rank}: {type(error).__name__}: {said}. No step was made. "
            "Look at model, max_length and features, which must fit each other."
        )
    return None


def _held(device: torch.device) -> str:
    if device.type != "cuda":
        return ""
    most, whole = torch.cuda.max_memory_allocated(device), torch.cuda.get_device_properties(device).total_memory
    return f" ({most / GIB:.3g} of {whole / GIB:.3g} GiB were taken)"
