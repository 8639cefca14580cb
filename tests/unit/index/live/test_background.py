"""Compaction that gives way to everything else on its machine."""

from __future__ import annotations

import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest
from chatsearch.index.live.background import build_base_in_background
from chatsearch.index.live.compact import build_base
from chatsearch.index.live.writer import GalleryWriter

from tests.unit.index.live.galleries import gallery_over_index


@pytest.mark.skipif(not hasattr(os, "SCHED_IDLE"), reason="Linux alone has a policy for work that gives way")
def test_its_process_steps_behind_all_others_and_makes_the_same_base(tmp_path: Path) -> None:
    uri, _ = gallery_over_index(str(tmp_path), 20)
    with GalleryWriter.open(uri, "w") as writer:
        work = writer.plan_compaction()
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
        assert process.submit(os.sched_getscheduler, 0).result() == os.SCHED_OTHER
        made = process.submit(build_base_in_background, work).result()
        assert process.submit(os.sched_getscheduler, 0).result() == os.SCHED_IDLE
    assert os.sched_getscheduler(0) == os.SCHED_OTHER
    assert build_base(work) == made
