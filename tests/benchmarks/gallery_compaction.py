"""Goal I8, last part: what searches lose while another process compacts, as a Ray task would."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager

import faiss
import numpy as np
from chatsearch.index.live.background import build_base_in_background
from chatsearch.index.live.compact import Compaction
from chatsearch.index.live.reader import LiveGallery
from chatsearch.index.live.state import Version
from chatsearch.index.live.writer import GalleryWriter

from tests.benchmarks.gallery_setup import COMMAND, DIMENSION, K, make_gallery
from tests.benchmarks.harness import Result, judge, take_turns

NUM_ROUNDS = 30
TURN_S = 2.0


def measure() -> Iterator[Result]:
    """Queries a second of batches of 8 while another process compacts, over those while it stands still."""
    faiss.omp_set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        uri = make_gallery(folder, 50_000)
        reader = LiveGallery.open(uri)
        queries_BD = np.random.default_rng(2).standard_normal((8, DIMENSION)).astype(np.float32)

        def rate() -> float:
            begin, num = time.perf_counter(), 0
            while time.perf_counter() - begin < TURN_S:
                reader.search(queries_BD, K)
                num += len(queries_BD)
            return num / (time.perf_counter() - begin)

        with compacting(uri) as process:

            def busy() -> float:
                process.send_signal(signal.SIGCONT)
                try:
                    return rate()
                finally:
                    process.send_signal(signal.SIGSTOP)

            rate()
            turns = take_turns({"idle": rate, "compacting": busy}, NUM_ROUNDS)
        reader.close()
    ratios = turns.ratios("compacting", "idle")
    goal = "QPS during compaction >= 0.8x idle"
    yield judge("I8-compaction", ratios, goal=goal, command=COMMAND, at_least=0.8, null=turns.null, sides=turns.values)


@contextmanager
def compacting(uri: str) -> Iterator[subprocess.Popen[str]]:
    """A process that compacts a gallery again and again; it stands still at first, and whenever it is sent SIGSTOP."""
    with GalleryWriter.open(uri, "bench") as writer:
        work = writer.plan_compaction()
    given = [work.gallery, work.version.model_dump(mode="json"), work.model, work.num_shards]
    process = subprocess.Popen(
        [sys.executable, "-c", "from tests.benchmarks.gallery_compaction import compact_for_ever as run; run()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    try:
        assert process.stdin and process.stdout
        process.stdin.write(json.dumps(given))
        process.stdin.close()
        process.stdout.readline()
        process.send_signal(signal.SIGSTOP)
        yield process
        if process.poll() is not None:
            raise RuntimeError(f"the compacting process ended by itself, with {process.returncode}")
    finally:
        process.kill()
        process.wait()


def compact_for_ever() -> None:
    """Build the base that standard input tells of, each time as other work, which is not done already."""
    gallery, version, model, num_shards = json.loads(sys.stdin.read())
    number = 0
    while True:
        number += 1
        without = (f"none-{number}",)
        build_base_in_background(Compaction(gallery, Version.model_validate(version), model, num_shards, without))
        if number == 1:
            print("begun", flush=True)
