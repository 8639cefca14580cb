"""A small world of drawn scenes with everything that an evaluation reads: shards, weights, bundle, features, index."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from chatsearch.config import Config
from chatsearch.corpora.base import Sample
from chatsearch.corpora.config import ScenesConfig, ScenesCounts
from chatsearch.corpora.images import decode_rgb
from chatsearch.corpora.open import open_corpus
from chatsearch.data.part import commit_shards
from chatsearch.data.part import write_part as write_documents
from chatsearch.index.build import build_index
from chatsearch.index.config import EmbedConfig, IndexConfig
from chatsearch.index.features import ITEMS, part_name, write_part
from chatsearch.index.items import write_items
from chatsearch.kinds import DOCUMENT_SHARDS, FEATURE_STORE, MODEL_WEIGHTS
from chatsearch.manifest import begin_output
from chatsearch.model.bundle import save_bundle
from chatsearch.model.language import LanguageModel
from chatsearch.model.vision import VisionEncoder
from chatsearch.model.weights import StartingWeights, save_weights
from chatsearch.testing.tiny import tiny_config, tiny_searcher, tiny_tokenizer, tiny_vision
from chatsearch.types import GalleryItem, Kind


class _Made(Config):
    """Stands for whatever made an artefact."""

    name: str


def write_shards(uri: str, samples: Sequence[Sample]) -> str:
    output = begin_output(uri, DOCUMENT_SHARDS, _Made(name=uri), {})
    commit_shards(output, "scenes", [write_documents(output.folder, 0, samples)])
    return output.folder.uri


def write_features(uri: str, vision: VisionEncoder, pictures: dict[str, bytes], items: Sequence[GalleryItem]) -> str:
    output = begin_output(uri, FEATURE_STORE, EmbedConfig(), {"pictures": "".join(sorted(pictures))[:16]})
    hashes = sorted(pictures)
    pixels = torch.stack([vision.preprocess(decode_rgb(pictures[h])) for h in hashes])
    with output.folder.writing(part_name(0)) as path:
        write_part(path, hashes, vision(pixels).cls_BD.numpy())
    with output.folder.writing(ITEMS) as path:
        write_items(path, items)
    facts = {
        "dimension": vision.config.feature_dim,
        "token_shape": None,
        "encoder_fingerprint": vision.fingerprint,
        "preprocessing_id": vision.preprocessing_id,
        "images": [],
    }
    return output.commit(counts={"pictures": len(hashes), "items": len(items)}, facts=facts).uri


@dataclass(frozen=True)
class World:
    root: Path
    shards: str
    train_shards: str
    weights: str
    bundle: str
    features: str
    train_features: str
    index: str


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    root = tmp_path_factory.mktemp("evaluate")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = tiny_config()
        vision, language = tiny_vision(config), LanguageModel(config.language)
    samples = {split: _scenes(split) for split in ("train", "test")}
    uris = {split: write_shards(str(root / f"shards-{split}"), found) for split, found in samples.items()}
    stores = {}
    for split, found in samples.items():
        pictures = {h: data for sample in found for h, data in sample.images.items()}
        gallery = [s.document for s in found if s.document.kind == Kind.GALLERY]
        items = [GalleryItem(d.document_id, d.images()[0]) for d in gallery]
        kept = {item.content_hash: pictures[item.content_hash] for item in items} if items else pictures
        stores[split] = write_features(str(root / f"features-{split}"), vision, kept, items)
    tokenizer = tiny_tokenizer()
    output = begin_output(str(root / "weights"), MODEL_WEIGHTS, _Made(name="weights"), {})
    weights = save_weights(output, StartingWeights(vision, config.language, language.word_weights(), tokenizer))
    bundle = save_bundle(
        str(root / "bundle"), tiny_searcher(config), vision, tokenizer, inputs={"weights": weights.fingerprint}
    )
    index = build_index(
        IndexConfig(features=stores["test"], model=bundle.uri, output=str(root / "index"), num_shards=2)
    )
    return World(root, uris["test"], uris["train"], weights.uri, bundle.uri, stores["test"], stores["train"], index.uri)


def _scenes(split: str) -> list[Sample]:
    counts = ScenesCounts(question=6, edit=4, chatsearch_t=5, chatsearch_i=5, chatsearch_m=5, caption=30)
    counts = counts.replace(gallery=10) if split == "test" else counts
    corpus = open_corpus(ScenesConfig(seed=3, split=split, kinds=counts, num_distractors=2))
    found = [record for partition in corpus.partitions() for record in corpus.read(partition)]
    assert all(isinstance(record, Sample) for record in found)
    return found


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)
