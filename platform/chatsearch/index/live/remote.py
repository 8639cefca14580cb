"""Compaction in a Ray task: the writer goes on committing meanwhile."""

from __future__ import annotations

import ray

from chatsearch.index.live.compact import Compacted, Compaction, build_base


def build_base_on_ray(work: Compaction, num_cpus: float = 1.0) -> Compacted:
    """:func:`~chatsearch.index.live.compact.build_base` in a task. Killed, it is tried again and goes on where it stopped.

    Args:
        work: what :meth:`~chatsearch.index.live.writer.GalleryWriter.plan_compaction` gave.
        num_cpus: processors that the task asks for.
    """
    task = ray.remote(build_base).options(num_cpus=num_cpus, max_retries=3, name="compact-gallery")
    made: Compacted = ray.get(task.remote(work))
    return made
