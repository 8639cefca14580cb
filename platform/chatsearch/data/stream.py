"""A training worker's batches, built ahead of time by Ray Data from any step on.

Ray Data iterators have no position that could be saved. None is needed here: the data set is a list of step numbers,
the batches of a step are a pure function of it (:mod:`chatsearch.data.steps`), so a resumed run lists the steps that are left.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import ray
from numpy.typing import NDArray
from ray.data import ActorPoolStrategy, DataContext
from ray.data._internal.execution.execution_callback import ExecutionCallback
from ray.data._internal.execution.streaming_executor import StreamingExecutor

from chatsearch.data.config import LoaderConfig
from chatsearch.data.pack import Batch
from chatsearch.data.steps import StepBuilder
from chatsearch.errors import named_cause

_BLOCK_BYTES = 16 << 20
"""A task hands over what it has built when it is this much. Small steps come together, since handing a block over costs Ray Data
far more than building one of them does; with larger blocks of pictures a few fill Ray Data's share of the object store, and it
lets one task work where several could."""
_IDLE_S = 0.05
"""Pause of Ray Data's scheduling loop after a turn in which nothing happened and nobody waits."""


def rank_batches(
    builder: StepBuilder,
    rank: int,
    world_size: int,
    *,
    start: int,
    stop: int,
    loader: LoaderConfig | None = None,
) -> Iterator[tuple[int, list[Batch]]]:
    """Batches of one worker for the steps from ``start`` up to but without ``stop``, each with its step.

    Needs a running Ray session. Closing the iterator ends its tasks.

    Raises:
        ChatSearchError: whatever :meth:`StepBuilder.build` raises.
    """
    loader = loader or LoaderConfig()
    _ = builder.plan  # opens the shards: what is wrong with them shows before a task is started
    for first in range(start, stop, loader.steps_per_window):
        steps = range(first, min(first + loader.steps_per_window, stop))
        yield from _window(builder, rank, world_size, steps, loader)


def _window(
    builder: StepBuilder, rank: int, world_size: int, steps: range, loader: LoaderConfig
) -> Iterator[tuple[int, list[Batch]]]:
    context = DataContext.get_current().copy()
    context.enable_progress_bars = False
    context.raise_original_map_exception = True  # else the cause is lost between processes
    context.execution_options.preserve_order = True
    context.target_max_block_size = _BLOCK_BYTES
    context.custom_execution_callback_classes = [*context.custom_execution_callback_classes, Unhurried]
    num_blocks = math.ceil(len(steps) / loader.steps_per_task)
    with DataContext.current(context):
        # Items become blocks in this process. Tables would be looked at by a task, for which the workers may have left no CPU.
        items = ray.data.from_items([{"step": step} for step in steps], override_num_blocks=num_blocks)
        dataset = items.map_batches(
            _Build,
            fn_constructor_args=(builder, rank, world_size),
            batch_size=None,
            batch_format="pyarrow",
            compute=ActorPoolStrategy(size=loader.num_tasks),
            num_cpus=loader.cpus_per_task,
        )
        blocks = dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=loader.prefetch_blocks)
    expected = iter(steps)
    held: list[Batch] = []
    try:
        for table in blocks:
            assert isinstance(table, pa.Table)
            for row in _rows(table):  # a step's rows may come in one block or in several
                held.append(batch_of(row))
                if len(held) == builder.num_micro_batches:
                    step = next(expected)
                    assert row["step"] == step, (row["step"], step)
                    yield step, held
                    held = []
    except Exception as error:
        raise named_cause(error) or error from error


class Unhurried(ExecutionCallback):
    """Lets the scheduling loop, a thread of the training worker, rest while it has nothing to do.

    Where batches are built faster than they are consumed, the loop finds every task ready that it may not read yet, so it waits for
    nothing and turns as often as it can: nine tenths of a processor, and the interpreter's lock most of the time. While somebody waits
    for a batch there is no rest.
    """

    def __init__(self) -> None:
        self._seen: list[tuple[int, int, int]] = []

    def on_execution_step(self, executor: StreamingExecutor) -> None:
        """After a turn: tasks begun, blocks read and tasks ended are what may have happened in it."""
        metrics = [operator.metrics for operator in executor._topology or ()]
        seen = [(m.num_tasks_submitted, m.num_task_outputs_generated, m.num_tasks_finished) for m in metrics]
        assert executor._output_node is not None, "it is set before the first turn"
        _, output = executor._output_node
        if seen == self._seen and not output.num_waiting_consumers:
            time.sleep(_IDLE_S)
        self._seen = seen


class _Build:
    """One process that builds steps; its shards stay open between tasks."""

    def __init__(self, builder: StepBuilder, rank: int, world_size: int) -> None:
        self._builder, self._rank, self._world_size = builder, rank, world_size

    def __call__(self, steps: pa.Table) -> Iterator[pa.Table]:
        for step in steps["step"].to_pylist():
            yield to_table(step, self._builder.build(step, self._rank, self._world_size))


_ARRAY = pa.struct([("dtype", pa.string()), ("shape", pa.list_(pa.int64())), ("bytes", pa.large_binary())])
_NAMES = (*(name for name in Batch.__slots__ if name != "pixels"), "pixels")
_SCHEMA = pa.schema([("step", pa.int64()), *((name, _ARRAY) for name in _NAMES)])


def to_table(step: int, batches: Sequence[Batch]) -> pa.Table:
    """Batches of one step as rows: every array as its type, shape and bytes, so that no object is pickled.

    The bytes are not copied: the table holds on to the arrays.
    """
    rows = []
    for batch in batches:
        arrays = batch.to_arrays()
        columns = [_cell(arrays.get(name)) for name in _NAMES]
        rows.append(pa.table([pa.array([step], pa.int64()), *columns], schema=_SCHEMA))
    return pa.concat_tables(rows) if rows else _SCHEMA.empty_table()


def _cell(array: NDArray[Any] | None) -> pa.Array:
    """A column of one row."""
    if array is None:
        return pa.nulls(1, _ARRAY)
    offsets = np.array([0, array.nbytes], dtype=np.int64)
    data = pa.py_buffer(np.ascontiguousarray(array).reshape(-1).view(np.uint8))
    held = pa.LargeBinaryArray.from_buffers(pa.large_binary(), 1, [None, pa.py_buffer(offsets), data])
    shape = pa.array([array.shape], pa.list_(pa.int64()))
    return pa.StructArray.from_arrays([pa.array([array.dtype.str]), shape, held], fields=list(_ARRAY))


def _rows(table: pa.Table) -> Iterator[dict[str, Any]]:
    """The rows one by one, the bytes as views into the table: a block of pictures is never held twice."""
    for number in range(table.num_rows):
        row: dict[str, Any] = {"step": table["step"][number].as_py()}
        for name in _NAMES:
            cell = table[name][number]
            row[name] = None
            if cell.is_valid:
                row[name] = {key: cell[key].as_py() for key in ("dtype", "shape")} | {
                    "bytes": cell["bytes"].as_buffer()
                }
        yield row


def batch_of(row: dict[str, Any]) -> Batch:
    """The inverse of :func:`to_table` for one row. Arrays are copies: tensors made of them may be written to."""
    arrays = {
        name: np.ndarray(held["shape"], held["dtype"], buffer=held["bytes"]).copy()
        for name, held in row.items()
        if name != "step" and held is not None
    }
    return Batch.from_arrays(arrays)
