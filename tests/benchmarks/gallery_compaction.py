"""Goal I8, last part: what searches lose while another process compacts, as a Ray task would."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator

import faiss
import numpy as np
from chatsearch.index.live.compact import Compaction
from chatsearch.index.live.reader import LiveGallery
from chatsearch.index.live.writer import GalleryWriter

from tests.benchmarks.gallery_setup import COMMAND, DIMENSION, K, make_gallery, put
from tests.benchmarks.harness import NULL_BAND, Result, median_interval

NUM_PAIRS = 9


def measure() -> Iterator[Result]:
    """The third part of I8."""
    faiss.omp_set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        yield during_compaction(make_gallery(folder, 50_000), np.random.default_rng(2))


def during_compaction(uri: str, rng: np.random.Generator) -> Result:
    """Queries a second while another process compacts, over those while none does."""
    reader = LiveGallery.open(uri)
    queries_BD = rng.standard_normal((8, DIMENSION)).astype(np.float32)

    def rate(seconds: float = 4.0) -> float:
        begin, num = time.perf_counter(), 0
        while time.perf_counter() - begin < seconds:
            reader.search(queries_BD, K)
            num += len(queries_BD)
        return num / (time.perf_counter() - begin)

    def compacting() -> float:
        with GalleryWriter.open(uri, "bench") as writer:
            put(
                writer, int(rng.integers(2 * 10**9, 10**10)), 1, rng
            )  # other work each time, or it would be done already
            work = writer.plan_compaction()
        begun, stop = threading.Event(), threading.Event()

        def again_and_again() -> None:
            number = 0
            while not stop.is_set():
                number += 1
                compact_in_process(
                    Compaction(work.gallery, work.version, work.model, work.num_shards, (f"none-{number}",)), begun
                )

        thread = threading.Thread(target=again_and_again)
        thread.start()
        begun.wait()
        measured = rate()
        stop.set()
        thread.join()
        return measured

    rate()
    null = statistics.median(_of_two(rate(), rate(), number) for number in range(NUM_PAIRS))
    ratios = []
    for number in range(NUM_PAIRS):
        if number % 2:
            idle, busy = rate(), compacting()
        else:
            busy, idle = compacting(), rate()
        ratios.append(busy / idle)
    reader.close()
    goal = "QPS during compaction >= 0.8x idle"
    if not NULL_BAND[0] <= null <= NULL_BAND[1]:
        return Result(
            "I8-compaction", "void", None, None, f"{goal} (null test {null:.3f})", COMMAND, runs=tuple(ratios)
        )
    interval = median_interval(ratios)
    status = "met" if interval[0] >= 0.8 else "missed"
    return Result("I8-compaction", status, statistics.median(ratios), interval, goal, COMMAND, runs=tuple(ratios))


def _of_two(first: float, second: float, number: int) -> float:
    """Their ratio, the other way round every second time: what drifts does not add up."""
    return second / first if number % 2 else first / second


def compact_in_process(work: Compaction, begun: threading.Event) -> None:
    """Build a base in a process of its own, as a Ray task would."""
    program = (
        "import sys, json\n"
        "from chatsearch.index.live.background import build_base_in_background\n"
        "from chatsearch.index.live.compact import Compaction\n"
        "from chatsearch.index.live.state import Version\n"
        "given = json.loads(sys.stdin.read())\n"
        "print('begun', flush=True)\n"
        "build_base_in_background(Compaction(given[0], Version.model_validate(given[1]), *given[2:4], tuple(given[4])))\n"
    )
    given = [work.gallery, work.version.model_dump(mode="json"), work.model, work.num_shards, work.without]
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert process.stdin and process.stdout
    process.stdin.write(json.dumps(given))
    process.stdin.close()
    process.stdout.readline()
    begun.set()
    if process.wait():
        raise RuntimeError("the compaction failed")
