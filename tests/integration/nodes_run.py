"""Shards of a gallery on three nodes, one of which is lost and comes back: ``python -m tests.integration.nodes_run INDEX LIVE``.

In a process of its own, over the URIs of a gallery index and of a live gallery with three shards each. Prints JSON.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import ray
from chatsearch.errors import InputError, OverloadedError
from chatsearch.index.actors import ActorGallery
from chatsearch.index.coverage import Covered
from chatsearch.index.filters import Between, Exists
from chatsearch.index.gallery import GalleryIndex
from chatsearch.index.live.reader import LiveGallery
from chatsearch.index.live.writer import GalleryWriter
from chatsearch.testing.ports import LOOPBACK, free_ports
from ray.cluster_utils import Cluster

from tests.unit.index.live.galleries import features, item
from tests.unit.index.synthetic import RETRIEVAL_DIM

OBJECT_STORE_BYTES = 80 * 1024**2
K = 20
_PATIENCE_S = 120.0


def add_node(cluster: Cluster) -> Any:
    """Room for two actors: one of each gallery."""
    return cluster.add_node(num_cpus=2, node_ip_address=LOOPBACK, object_store_memory=OBJECT_STORE_BYTES)


def wait_for(reached: Callable[[], Any]) -> Any:
    """The first answer that is something."""
    deadline = time.monotonic() + _PATIENCE_S
    while not (found := reached()):
        if time.monotonic() > deadline:
            raise TimeoutError("it did not come")
        time.sleep(0.2)
    return found


def answered(search: Callable[[], Covered]) -> Covered | None:
    """What is answered; None while it is refused."""
    try:
        return search()
    except OverloadedError:
        return None


def main(index_uri: str, live_uri: str) -> dict[str, Any]:
    """Everything that is checked; the test compares it with what must be."""
    queries_BD = np.random.default_rng(0).normal(size=(5, RETRIEVAL_DIM))
    local = GalleryIndex.open(index_uri)
    seen: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as scratch:
        head = {
            "num_cpus": 0,
            "node_ip_address": LOOPBACK,
            "include_dashboard": False,
            "gcs_server_port": free_ports(1)[0],
            "object_store_memory": OBJECT_STORE_BYTES,
            "temp_dir": scratch,
        }
        cluster = Cluster(initialize_head=True, head_node_args=head)
        try:
            for _ in range(3):
                add_node(cluster)
            ray.init(address=cluster.address, log_to_driver=False)
            gallery = ActorGallery.open(index_uri)
            live = ActorGallery.open(live_uri, poll_s=0.1)
            whole = gallery.search(queries_BD, K)
            seen["whole"] = [whole.hits == local.search(queries_BD, K), whole.coverage]
            asked: dict[str, Any] = {"filter": Between("number", at_least=5, below=35), "unique": True}
            seen["filtered"] = gallery.search(queries_BD, K, **asked).hits == local.search(queries_BD, K, **asked)
            for searched in (gallery, live):
                try:
                    searched.search(queries_BD, K, filter=Exists("nubmer"))
                except InputError as error:
                    seen.setdefault("unknown field", []).append(str(error))
            try:
                gallery.search(queries_BD, 0)
            except InputError as error:
                seen["bad request"] = str(error)

            with GalleryWriter.open(live_uri, "nodes") as writer:
                writer.upsert([item("new", 3)], features([3]))
                writer.delete(["item-0001"])
            reader = LiveGallery.open(live_uri)

            def caught_up() -> bool:
                return live.search(queries_BD, 60).hits == reader.search(queries_BD, 60)

            seen["live"] = wait_for(caught_up)
            seen["live filtered"] = live.search(queries_BD, K, **asked).hits == reader.search(queries_BD, K, **asked)

            lost = next(iter(cluster.worker_nodes))
            cluster.remove_node(lost, allow_graceful=False)
            partial = wait_for(lambda: (found := gallery.search(queries_BD, K, min_coverage=0.1)).missing and found)
            sizes = local.artefact.manifest.facts["items_per_shard"]
            left = [number for number in range(3) if number not in partial.missing]
            seen["partial"] = [
                len(partial.missing),
                partial.coverage == 1 - sum(sizes[n] for n in partial.missing) / sum(sizes),
            ]
            held = {hit.item_id for shard in left for hit in local._shards[shard].search(queries_BD, 60).queries[0]}
            seen["partial hits"] = all(hit.item_id in held for hit in partial.hits[0]) and len(partial.hits[0]) == K
            try:
                gallery.search(queries_BD, K)
            except OverloadedError as error:
                seen["refused"] = str(error)

            add_node(cluster)
            back = wait_for(lambda: answered(lambda: gallery.search(queries_BD, K)))
            seen["back"] = [back.hits == whole.hits, back.coverage]
            again = wait_for(lambda: answered(lambda: live.search(queries_BD, 60)))
            seen["live back"] = again.hits == reader.search(queries_BD, 60)
            gallery.close()
            live.close()
            reader.close()
        finally:
            ray.shutdown()
            cluster.shutdown()
    return seen


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], sys.argv[2])))
