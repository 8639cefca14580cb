"""Shards of a live gallery in Ray actors: what is committed is found within a second, and one version answers at a time."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chatsearch.index.live.reader import LiveGallery
from chatsearch.index.live.remote import build_base_on_ray
from chatsearch.index.live.writer import GalleryWriter
from chatsearch.index.merge import merge_batches

from tests.unit.index.live.galleries import expected, features, gallery_over_index, item
from tests.unit.index.synthetic import RETRIEVAL_DIM

pytestmark = pytest.mark.ray
NUM_SHARDS = 3


class ShardActor:
    """One shard of a gallery, followed."""

    def __init__(self, uri: str, shard: int) -> None:
        self._gallery = LiveGallery.open(uri, shards=[shard])
        self._gallery.follow(poll_s=0.2)

    def version(self) -> int:
        return self._gallery.version

    def search(self, queries_BD: np.ndarray, k: int, at: int) -> Any:
        return self._gallery.shard_hits(queries_BD, k, at=at)


@pytest.mark.usefixtures("ray_session")
def test_actors_follow_and_a_task_compacts(tmp_path: Path) -> None:
    import ray

    uri, live = gallery_over_index(str(tmp_path), 60, num_shards=NUM_SHARDS)
    actors = [ray.remote(ShardActor).options(num_cpus=0).remote(uri, shard) for shard in range(NUM_SHARDS)]
    assert ray.get([actor.version.remote() for actor in actors]) == [1] * NUM_SHARDS
    queries_BD = np.random.default_rng(0).normal(size=(3, RETRIEVAL_DIM))

    def visible(version: int) -> float:
        """Seconds until every actor has reached a version by itself."""
        begin = time.monotonic()
        while min(ray.get([actor.version.remote() for actor in actors])) < version:
            time.sleep(0.02)
        return time.monotonic() - begin

    def check(version: int) -> None:
        answers = ray.get([actor.search.remote(queries_BD, 20, version) for actor in actors])
        assert merge_batches(answers, 20) == expected(live, queries_BD, 20)

    with GalleryWriter.open(uri, "w") as writer:
        for number in range(5):
            version = writer.write([item(f"new-{number}", number)], features([number]), [f"item-{number:04d}"])
            live[f"new-{number}"] = number
            del live[f"item-{number:04d}"]
            assert visible(version) < 1.0
            check(version)
        with ThreadPoolExecutor(1) as thread:
            made = thread.submit(build_base_on_ray, writer.plan_compaction(), 0.5)
            writer.delete(["new-0"])
            del live["new-0"]
            version = writer.commit_compaction(made.result())
        visible(version)
        check(version)
