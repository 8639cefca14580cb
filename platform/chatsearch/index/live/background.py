"""Compaction that gives way to searches on the same machine."""

from __future__ import annotations

import contextlib
import os

from chatsearch.index.live.compact import Compacted, Compaction, build_base


def build_base_in_background(work: Compaction) -> Compacted:
    """:func:`~chatsearch.index.live.compact.build_base` with processor time that nobody else wants; the calling thread stays so.

    For a process of its own without a lease to renew: a thread that holds Python's lock and gets no processor holds up all others.
    On a machine whose processors are never idle it gets on slowly, and searches keep their rate.
    """
    # Not niceness: Ray's workers have 15 already, and from there to 19 is a small step.
    with contextlib.suppress(AttributeError, OSError):  # a system without it, or one that forbids it
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    return build_base(work)
