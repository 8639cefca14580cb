"""Compaction in a Ray task: the writer goes on committing meanwhile."""

from __future__ import annotations

import ray

from chatsearch.index.live.background import build_base_in_background
from chatsearch.index.live.compact import Compacted, Compaction


def build_base_on_ray(work: Compaction, num_cpus: float = 1.0) -> Compacted:
    """:func:`~chatsearch.index.live.background.build_base_in_background` in a task. Killed, it is tried again and goes on where it
    stopped.

    Args:
        work: what :meth:`~chatsearch.index.live.writer.GalleryWriter.plan_compaction` gave.
        num_cpus: processors that the task asks for.
    """
    # One call a worker: it cannot take back that it has stepped behind others.
    task = ray.remote(max_calls=1)(build_base_in_background).options(
        num_cpus=num_cpus, max_retries=3, name="compact-gallery"
    )
    made: Compacted = ray.get(task.remote(work))
    return made
