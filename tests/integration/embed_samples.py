"""Small galleries and a tiny model for the embed tests: real shards and a real bundle, written without Ray."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from chatsearch.config import Config
from chatsearch.corpora.base import Sample
from chatsearch.data.part import write_part
from chatsearch.data.shards import DOCUMENT_SHARDS
from chatsearch.index.config import EmbedConfig
from chatsearch.manifest import begin_output
from chatsearch.model.bundle import save_bundle
from chatsearch.model.vision import VisionEncoder
from chatsearch.testing.tiny import tiny_config, tiny_searcher, tiny_tokenizer
from chatsearch.types import Document, Kind, Segment, content_hash
from PIL import Image


class _ShardsConfig(Config):
    name: str


def picture(seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, size=(20, 30, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def sample(name: str, kind: Kind, data: bytes, attributes: Mapping[str, str] | None = None) -> Sample:
    segments = [Segment(image=content_hash(data))]
    if kind is not Kind.GALLERY:
        segments.append(Segment(text="a picture"))
    return Sample(Document(name, kind, tuple(segments), attributes=attributes or {}), {content_hash(data): data})


def write_shards(uri: Path, parts: Sequence[Sequence[Sample]]) -> str:
    output = begin_output(str(uri), DOCUMENT_SHARDS, _ShardsConfig(name=uri.name), {})
    made = [write_part(output.folder, number, samples) for number, samples in enumerate(parts)]
    kinds: Counter[str] = sum((Counter(part.kinds) for part in made), Counter())
    output.commit(
        counts={"documents": sum(part.num_documents for part in made)},
        facts={
            "corpus": "test",
            "kinds": dict(kinds),
            "splits": {"train": kinds.total()},
            "parts": [part.part for part in made],
            "documents_per_part": [part.num_documents for part in made],
        },
    )
    return str(uri)


def config_for(shards: str | tuple[str, ...], model: str, output: Path, **changes: object) -> EmbedConfig:
    config = EmbedConfig(gallery=shards, model=model, output=str(output), images_per_part=10, batch_size=4)
    return config.replace(**changes)


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != "manifest.json")
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def make_model(uri: Path, seed: int = 0, *, vision_seed: int = 3) -> str:
    """A bundle whose vision encoder hangs on one seed and all other parts on another."""
    config = tiny_config()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(vision_seed)
        vision = VisionEncoder(config.vision)
    tokenizer = tiny_tokenizer(config.language.vocab_size)
    return save_bundle(str(uri), tiny_searcher(config, seed=seed), vision, tokenizer, inputs={}).uri
