"""A whole small thing to serve: scenes, a tiny random bundle and an index in two shards, made by the real jobs' code."""

from __future__ import annotations

from chatsearch.corpora.config import ScenesConfig, ScenesCounts
from chatsearch.data.config import PrepareConfig
from chatsearch.data.prepare import prepare
from chatsearch.index.build import build_index
from chatsearch.index.config import EmbedConfig, IndexConfig
from chatsearch.index.embed import embed
from chatsearch.testing.tiny import tiny_bundle

from serve.settings import Limits, ServeArgs


def make_served(folder: str) -> ServeArgs:
    """Everything under one folder. Needs a Ray session."""
    counts = ScenesCounts(chatsearch_t=4, gallery=8)
    corpus = ScenesConfig(split="test", kinds=counts, num_distractors=2)
    shards = prepare(PrepareConfig(corpus=corpus, output=f"{folder}/scenes"))
    bundle = tiny_bundle(f"{folder}/model")
    features = embed(EmbedConfig(gallery=shards.uri, model=bundle.uri, output=f"{folder}/features"))
    index = build_index(IndexConfig(features=features.uri, model=bundle.uri, output=f"{folder}/index", num_shards=2))
    return ServeArgs(
        model=bundle.uri,
        index=index.uri,
        database=f"sqlite:///{folder}/conversations.db",
        limits=Limits(max_new_tokens=12, max_tokens=400),
    )
