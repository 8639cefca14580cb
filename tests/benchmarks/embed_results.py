"""What embedding makes: rows beside those of a reference loop, and a new model's index over rows that are there."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from chatsearch.corpora.base import Sample
from chatsearch.corpora.images import decode_rgb
from chatsearch.data.shards import DocumentShards, ImageStore
from chatsearch.index.build import build_index
from chatsearch.index.config import EmbedConfig, IndexConfig
from chatsearch.index.embed import embed
from chatsearch.index.encode import make_here
from chatsearch.index.features import FeatureStore
from chatsearch.manifest import MANIFEST
from chatsearch.model.frozen_encoder import load_vision

from tests.benchmarks.data_corpus import write_shards
from tests.benchmarks.embed_setup import LARGE, Places, write_tower
from tests.benchmarks.harness import Result, median_interval

SAME = 0.99999
NUM_COMPARED = 300
NUM_PROJECTIONS = 9


def gallery(places: Places, num_pictures: int) -> EmbedConfig:
    """The first photographs, through the large tower."""
    uri = places.path(f"first-{num_pictures}")
    if not Path(uri).exists():
        shards = DocumentShards.open(places.path("photographs"))
        documents = [shards.document(n) for n in range(min(num_pictures, shards.num_documents))]
        write_shards(uri, (Sample(d, {name: shards.images.get(name) for name in d.images()}) for d in documents))
    return EmbedConfig(gallery=(uri,), model=places.path("large"), output=places.path("first"), decode_threads=1)


def reference(places: Places, num_pictures: int, command: str) -> Iterator[Result]:
    """Lowest cosine of a stored row to the row of a loop over single pictures: E5."""
    config = gallery(places, num_pictures)
    stores = {
        "float32": FeatureStore(embed(config, make_here)),
        "float16": FeatureStore(embed(config.replace(dtype="float16", output=places.path("first-half")), make_here)),
    }
    encoder, pictures = load_vision(config.model), ImageStore.open(config.gallery[0])
    names = pictures.hashes()[:NUM_COMPARED]
    with torch.inference_mode():
        rows = [encoder(encoder.preprocess(decode_rgb(pictures.get(n)))[None]).cls_BD[0].numpy() for n in names]
    for dtype, store in stores.items():
        cosines = [_cosine(store.get(name), row) for name, row in zip(names, rows, strict=True)]
        twice = len(store.hashes) - len(set(store.hashes))
        yield Result(
            "E5" if dtype == "float32" else f"E5-{dtype}",
            "met" if min(cosines) >= SAME and not twice else "missed",
            min(cosines),
            None,
            f"cosine to a reference loop >= {SAME} in every row, no id twice",
            command,
            note=f"{dtype} store, {len(cosines)} of {len(store)} rows compared with a loop that encodes them one by one: 1 - cosine at "
            f"most {1 - min(cosines):.2g}; {twice} ids twice",
        )


def _cosine(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a.astype(np.float64), b.astype(np.float64)
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))


def new_model(places: Places, num_pictures: int, command: str) -> Iterator[Result]:
    """Time to embed a gallery again over the time to project its features with a new M_Q, and whether both give one index: E4."""
    config = gallery(places, num_pictures)
    store = FeatureStore(embed(config, make_here))
    write_tower(places.path("newer"), LARGE, seed=1)
    began = time.perf_counter()
    again = embed(config.replace(model=places.path("newer"), output=places.path("again")), make_here)
    embed_s = time.perf_counter() - began
    taken = []
    for number in range(NUM_PROJECTIONS):
        began = time.perf_counter()
        build_index(IndexConfig(features=store.uri, model=places.path("newer"), output=places.path(f"index-{number}")))
        taken.append(time.perf_counter() - began)
    build_index(IndexConfig(features=again.uri, model=places.path("newer"), output=places.path("index-again")))
    equal = _files(places.path("index-0")) == _files(places.path("index-again"))
    interval = median_interval([embed_s / seconds for seconds in taken])
    yield Result(
        "E4",
        "met" if equal and interval[0] >= 100 else "missed",
        embed_s / sorted(taken)[len(taken) // 2],
        interval,
        "a new model's index over stored features equals the one after embedding again, in >= 100x less time",
        command,
        runs=tuple(embed_s / seconds for seconds in taken),
        note=f"{len(store)} pictures: embedded again in {embed_s:.1f} s, projected and indexed in {sorted(taken)[len(taken) // 2]:.3f} s; "
        f"the files of the two indices are {'equal' if equal else 'NOT equal'}",
    )


def _files(uri: str) -> dict[str, bytes]:
    """All but the manifest, which holds times."""
    paths = (path for path in Path(uri).rglob("*") if path.is_file() and path.name != MANIFEST)
    return {str(path.relative_to(uri)): path.read_bytes() for path in paths}
