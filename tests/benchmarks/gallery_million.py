"""A gallery of a million items: built, served, changed and compacted in one process."""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator

import numpy as np
from chatsearch.index.live.compact import build_base
from chatsearch.index.live.reader import LiveGallery
from chatsearch.index.live.writer import GalleryWriter

from tests.benchmarks.gallery_setup import COMMAND, DIMENSION, K, make_gallery, put
from tests.benchmarks.harness import Result

MILLION = 1_000_000


def measure() -> Iterator[Result]:
    """The memory it takes."""
    yield a_million()


def a_million() -> Result:
    """Peak memory, in GiB, of a process that builds, serves, changes 100,000 items each way and compacts."""
    program = "from tests.benchmarks.gallery_million import live_through_a_million; live_through_a_million()"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    print(done.stdout, file=sys.stderr)
    peak = float(done.stdout.split()[-1])
    goal = "a million items build, serve, take 100,000 adds and deletes and compact under 8 GiB"
    return Result("gallery-million", "met" if peak <= 8.0 else "missed", peak, None, goal, COMMAND)


def live_through_a_million() -> None:
    """Print the seconds of each step, and at last the peak of the resident memory in GiB."""
    rng = np.random.default_rng(2)
    begin = time.perf_counter()

    def done(what: str) -> None:
        nonlocal begin
        print(f"{what} {time.perf_counter() - begin:.1f} s", flush=True)
        begin = time.perf_counter()

    with tempfile.TemporaryDirectory() as folder:
        uri = make_gallery(folder, MILLION)
        done("build")
        reader = LiveGallery.open(uri)
        queries_BD = rng.standard_normal((64, DIMENSION)).astype(np.float32)
        reader.search(queries_BD, K)
        done("open and search 64")
        with GalleryWriter.open(uri, "bench") as writer:
            done("open the writer")
            for start in range(0, 100_000, 5000):
                put(writer, 10**9 + start, 5000, rng)
                writer.delete([f"item-{n:04d}" for n in range(start, start + 5000)])
            done("add and delete 100,000")
            reader.refresh()
            done("refresh")
            hits = reader.search(queries_BD, K)
            done("search 64")
            writer.commit_compaction(build_base(writer.plan_compaction()))
            done("compact")
        reader.refresh()
        done("refresh")
        assert reader.search(queries_BD, K) == hits
        assert reader.num_items == MILLION
        done("search 64")
        reader.close()
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)
