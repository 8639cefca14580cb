"""The ``queries`` job on the drawn world, up to an index that is chosen with what it makes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from chatsearch.converse.pictures import PictureEncoder
from chatsearch.converse.query import encode_queries
from chatsearch.data.shards import DocumentShards
from chatsearch.errors import ConfigError, InputError
from chatsearch.evaluate.config import QueriesConfig
from chatsearch.evaluate.queries import query_of
from chatsearch.evaluate.query_vectors import make_query_vectors
from chatsearch.index.query_vectors import HALVES, QUERIES, QueryVectors
from chatsearch.manifest import read_manifest
from chatsearch.model.bundle import load_bundle
from chatsearch.types import Kind

from jobs import index, queries
from jobs.command import EXIT_BAD_INPUT, main
from tests.unit.evaluate.conftest import World, _scenes, write_shards


def told(world: World, output: str, **changes: Any) -> list[str]:
    said = {"data": world.shards, "model": world.bundle, "output": output, **changes}
    return ["--no-tracking", *(word for name, value in said.items() for word in ("--set", f"{name}={value}"))]


def test_every_dialogue_gives_what_the_model_searches_with(world: World, tmp_path, capsys) -> None:
    uri = str(tmp_path / "queries")
    assert main(queries.JOB, told(world, uri)) == 0
    held, shards, bundle = QueryVectors.open(uri), DocumentShards.open(world.shards), load_bundle(world.bundle)
    asked = {d.document_id: query_of(d) for d in shards.documents([Kind.T, Kind.I, Kind.M])}
    assert len(asked) == 15
    assert {query_id for half in HALVES for query_id in held.ids(half)} == set(asked)
    pictures = PictureEncoder(bundle.vision, shards.images)
    for half in HALVES:
        mine = [asked[query_id] for query_id in held.ids(half)]
        assert held.targets(half) == [query.target for query in mine]
        wanted_Qd = encode_queries(bundle, [query.context for query in mine], pictures)
        np.testing.assert_allclose(held.vectors(half), wanted_Qd, atol=1e-5)
    assert held.artefact.manifest.facts["mq_fingerprint"] == bundle.mq_fingerprint
    capsys.readouterr()
    assert main(queries.JOB, told(world, uri)) == 0
    assert "nothing to do" in capsys.readouterr().out


def test_the_same_dialogues_give_the_same_bytes_and_a_limit_draws_from_them(world: World, tmp_path) -> None:
    config = QueriesConfig(data=world.shards, model=world.bundle, output=str(tmp_path / "a"))
    whole = make_query_vectors(config)
    again = make_query_vectors(config.replace(output=str(tmp_path / "b")))
    assert whole.read_checked(QUERIES) == again.read_checked(QUERIES)
    some = QueryVectors(make_query_vectors(config.replace(output=str(tmp_path / "c"), max_queries=9)))
    kept = [query_id for half in HALVES for query_id in some.ids(half)]
    assert len(kept) == some.artefact.manifest.counts["queries"] == 9
    assert set(kept) < {query_id for half in HALVES for query_id in QueryVectors(whole).ids(half)}


def test_an_index_is_chosen_with_them(world: World, tmp_path) -> None:
    uri, output = str(tmp_path / "queries"), str(tmp_path / "index")
    made = make_query_vectors(QueriesConfig(data=world.shards, model=world.bundle, output=uri))
    said = {"features": world.features, "model": world.bundle, "output": output, "kind": "auto", "queries": uri}
    argv = ["--no-tracking", *(word for name, value in said.items() for word in ("--set", f"{name}={value}"))]
    assert main(index.JOB, argv) == 0
    manifest = read_manifest(output)
    assert manifest is not None
    assert manifest.inputs["queries"] == made.fingerprint
    assert manifest.facts["kind"] == "flat", "the drawn world is small"


def test_what_cannot_be_asked_is_refused_by_name(world: World, tmp_path, capsys) -> None:
    edits = write_shards(str(tmp_path / "edits"), [s for s in _scenes("train") if s.document.kind == Kind.EDIT])
    with pytest.raises(InputError, match="no t, i or m dialogue"):
        make_query_vectors(QueriesConfig(data=edits, model=world.bundle, output=str(tmp_path / "a")))
    with pytest.raises(ConfigError, match="model is not set"):
        make_query_vectors(QueriesConfig(data=world.shards, output=str(tmp_path / "b")))
    assert main(queries.JOB, told(world, str(tmp_path / "c"), max_queries=1)) == EXIT_BAD_INPUT
    assert "both halves need some" in capsys.readouterr().err
