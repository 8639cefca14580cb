"""A served shard that does not answer as it was built: it says so to Ray Serve and answers nobody until it is replaced."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from chatsearch.errors import CorruptArtefactError
from chatsearch.index.items import ItemTable
from chatsearch.index.shard import items_name

from serve import shard_deployment
from serve.shard_deployment import ShardServer
from tests.unit.index.synthetic import RETRIEVAL_DIM, make_gallery


def test_a_shard_that_fails_its_canaries_is_unhealthy_and_answers_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = make_gallery(str(tmp_path)).index(1)
    server = ShardServer(index.uri, 0)
    query_D = np.ones((1, RETRIEVAL_DIM), np.float32)

    async def answer():
        return await server.search(query_D, 3, ())

    table = pq.read_table(index.folder.local_path(items_name(0)))
    rolled = table.take(np.roll(np.arange(len(table)), 1))
    server._shard.items = ItemTable(rolled)
    asyncio.run(server.check_health())  # not a minute old yet
    assert asyncio.run(answer()).queries
    monkeypatch.setattr(shard_deployment, "CANARIES_EVERY_S", 0.0)
    for _ in range(2):
        with pytest.raises(CorruptArtefactError, match="does not answer as it did when it was built"):
            asyncio.run(server.check_health())
    with pytest.raises(CorruptArtefactError, match="does not answer as it did when it was built"):
        asyncio.run(answer())


def test_a_sound_shard_stays_healthy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shard_deployment, "CANARIES_EVERY_S", 0.0)
    server = ShardServer(make_gallery(str(tmp_path)).index(1).uri, 0)
    for _ in range(3):
        asyncio.run(server.check_health())
