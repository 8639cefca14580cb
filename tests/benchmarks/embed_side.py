"""One side of the benchmark of embedding: the whole path from stored pictures to feature files, or the encoder alone.

``python -m tests.benchmarks.embed_side SETTINGS`` serves turns. Parts are written without end: the shards' pictures over and over.
"""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from chatsearch.corpora.images import decode_rgb
from chatsearch.data.shards import ImageStore
from chatsearch.index.config import EmbedConfig
from chatsearch.index.encode import make_here
from chatsearch.session import ray_session

from tests.benchmarks.data_process import serve

PARTS_ON_RAY = 3000
"""More than all turns take."""


def parts(shards: str, size: int) -> Iterator[dict[str, Any]]:
    """Rows for the part encoder, of ``size`` pictures each."""
    names = itertools.cycle(ImageStore.open(shards).hashes())
    for part in itertools.count():
        hashes = list(itertools.islice(names, size))
        nothing = [-1] * size
        yield {"part": part, "hashes": hashes, "stores": [0] * size, "earlier_parts": nothing, "earlier_rows": nothing}


def pipeline(config: EmbedConfig) -> Iterator[int]:
    """Pictures of each part: read, decoded, prepared, encoded and written in this process."""
    for made in make_here(config, parts(config.gallery[0], config.images_per_part)):
        yield made["pictures"]


def on_ray(config: EmbedConfig) -> Iterator[int]:
    """The same by actors, as the job does it."""
    from chatsearch.index.embed import make_on_ray

    rows = list(itertools.islice(parts(config.gallery[0], config.images_per_part), PARTS_ON_RAY))
    for made in make_on_ray(config, rows):
        yield int(made["pictures"])


def model_alone(config: EmbedConfig) -> Iterator[int]:
    """Pictures of each batch through the encoder, from tensors that are ready."""
    import torch
    from chatsearch.model.frozen_encoder import load_vision

    torch.set_num_threads(int(config.cpus_per_actor))
    encoder = load_vision(config.model)
    store = ImageStore.open(config.gallery[0])
    names = itertools.cycle(store.hashes())
    batches = [
        torch.stack([encoder.preprocess(decode_rgb(store.get(n))) for n in itertools.islice(names, config.batch_size)])
        for _ in range(4)
    ]
    with torch.inference_mode():
        for batch_B3HW in itertools.cycle(batches):
            encoder(batch_B3HW).cls_BD.float().cpu().numpy()
            yield len(batch_B3HW)


def settings(config: EmbedConfig) -> Mapping[str, str]:
    """How it is set, in words."""
    size = f"batches of {config.batch_size}, parts of {config.images_per_part}"
    return {
        "settings": f"{config.num_actors} x {config.cpus_per_actor:g} encoder and {config.decode_threads} decode threads, {size}"
    }


def main() -> None:
    """Serve turns."""
    told = json.loads(sys.argv[1])
    config = EmbedConfig.model_validate(told["config"])
    match told["side"]:
        case "pipeline":
            serve(pipeline(config), settings(config))
        case "model":
            serve(model_alone(config), {"settings": f"{config.cpus_per_actor:g} threads"})
        case "ray":
            with ray_session():
                serve(on_ray(config), settings(config))


if __name__ == "__main__":
    main()
