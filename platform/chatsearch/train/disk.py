"""Whether the disk can hold a run's checkpoints and its bundle, asked before anything is started."""

from __future__ import annotations

import math
import shutil

from chatsearch.errors import DiskBudgetError
from chatsearch.model.size import searcher_parts, vision_parameters
from chatsearch.storage import Folder, is_remote
from chatsearch.train.config import TrainConfig
from chatsearch.train.memory import GIB

_STATE_BYTES = 12
"""Of a trained parameter: weight and two moments in fp32."""
_QUEUE_ID_BYTES = 8


def checkpoint_bytes(config: TrainConfig) -> int:
    """What one checkpoint takes. Frozen weights are not in it; random states and headers, some kB a worker, do not count."""
    trained = sum(part.trained for part in searcher_parts(config.model, config.lora))
    slot = 4 * config.model.vision.feature_dim + _QUEUE_ID_BYTES
    return _STATE_BYTES * trained + config.objective.queue_size * slot


def bundle_bytes(config: TrainConfig) -> int:
    """What the weights of the bundle take, all in fp32, the frozen encoder's too."""
    searcher = sum(part.parameters for part in searcher_parts(config.model))
    return 4 * (searcher + vision_parameters(config.model.vision))


def check_disk(config: TrainConfig, checkpoints: Folder) -> None:
    """Refuse a run that would fill a local disk. An object store is not asked.

    One checkpoint more than ``keep_checkpoints`` lies there while it is written. What an earlier attempt has left is there
    already.

    Args:
        config: of the run.
        checkpoints: where its checkpoints go, below its output.

    Raises:
        DiskBudgetError: naming what is free, what is needed, and what to do.
    """
    if is_remote(config.output):
        return
    num_kept = min(config.keep_checkpoints + 1, math.ceil(config.steps / config.checkpoint_every))
    each, bundle = checkpoint_bytes(config), bundle_bytes(config)
    present = sum(checkpoints.sizes().values())
    needed = max(num_kept * each - present, 0) + bundle
    free = shutil.disk_usage(Folder(config.output).uri).free
    if needed <= free:
        return
    raise DiskBudgetError(
        f"The disk of {config.output} has {free / GIB:.3g} GiB ({free} bytes) free, the run needs {needed / GIB:.3g} GiB ({needed} "
        f"bytes) more: {num_kept} checkpoints at once of {each / GIB:.3g} GiB, {present / GIB:.3g} GiB of them there already, and "
        f"the bundle with {bundle / GIB:.3g} GiB. Make room, lower keep_checkpoints={config.keep_checkpoints}, or take another "
        "output: a larger disk or s3://bucket/prefix."
    )
