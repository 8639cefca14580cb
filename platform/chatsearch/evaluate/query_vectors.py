"""Query embeddings of dialogues with ``[IMG]`` forced, kept: what an index of the model is tuned and measured with.

Shape suffixes: Q queries, d retrieval dimension.
"""

from __future__ import annotations

from itertools import islice

import torch

from chatsearch.converse.pictures import PictureEncoder
from chatsearch.converse.query import encode_queries
from chatsearch.data.shards import DocumentShards
from chatsearch.errors import ConfigError
from chatsearch.evaluate.config import QueriesConfig
from chatsearch.evaluate.queries import queries_by_sub_task
from chatsearch.index.query_vectors import Lineage, place, write_query_vectors
from chatsearch.kinds import MODEL_BUNDLE, QUERY_VECTORS
from chatsearch.manifest import Artefact, begin_output, open_artefact
from chatsearch.model.bundle import load_bundle


def make_query_vectors(config: QueriesConfig) -> Artefact:
    """Make the query vectors that a configuration describes, or return them when they are there already.

    Raises:
        ConfigError: a URI is not set.
        InputError: the shards hold no dialogue that asks for a picture, too few for two halves, or one that cannot be encoded.
        ArtefactError: an input is not finished or damaged.
    """
    for name in ("data", "model", "output"):
        if not getattr(config, name):
            raise ConfigError(f"{name} is not set; say where with --set {name}=URI.")
    shards = DocumentShards.open(config.data)
    model = open_artefact(config.model, MODEL_BUNDLE)
    output = begin_output(
        config.output,
        QUERY_VECTORS,
        config,
        {"data": shards.fingerprint, "model": model.fingerprint},
        overwrite=config.overwrite,
    )
    if output.finished:
        return output.finished
    torch.set_num_threads(config.threads)
    found = [query for task in queries_by_sub_task(shards.documents()).values() for query in task]
    queries = list(islice(sorted(found, key=lambda query: place(query.query_id)), config.max_queries))
    bundle = load_bundle(config.model)
    vectors_Qd = encode_queries(
        bundle,
        [query.context for query in queries],
        PictureEncoder(bundle.vision, shards.images),
        batch_size=config.batch_size,
    )
    return write_query_vectors(
        output,
        [query.query_id for query in queries],
        [query.target for query in queries],
        vectors_Qd,
        Lineage(bundle.uri, bundle.fingerprint, bundle.mq_fingerprint, shards.artefact.uri),
    )
