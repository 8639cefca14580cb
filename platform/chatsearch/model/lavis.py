"""BLIP-2's Q-Former as LAVIS saves it (``pretrain_vitL``), under our names."""

from __future__ import annotations

import re

import torch
from torch import Tensor

from chatsearch.errors import CorruptArtefactError
from chatsearch.model.config import PerceiverConfig
from chatsearch.model.mapping import LeftOut, PartMapping, Published, map_by_name
from chatsearch.model.perceiver import Perceiver

PART = "perceiver"
_BERT = "Qformer.bert."
_LAYER = re.compile(r"Qformer\.bert\.encoder\.layer\.(\d+)\.(.+)")
_OTHER_PARTS = {
    "visual_encoder.": "of LAVIS' own vision encoder: ours is fetched by itself",
    "Qformer.cls.": "of the Q-Former's word head",
    "vision_proj.": "of BLIP-2's own first stage",
    "text_proj.": "of BLIP-2's own first stage",
    "itm_head.": "of BLIP-2's own first stage",
    "temp": "of BLIP-2's own first stage",
    "opt_": "of BLIP-2's language model",
    "t5_": "of BLIP-2's language model",
    "llm_": "of BLIP-2's language model",
}
_TEXT = LeftOut("of the Q-Former's text half")


def perceiver_name(name: str) -> str | LeftOut:
    """Our name of a tensor of LAVIS, or why it has none.

    ``ln_vision`` is the norm between encoder and Q-Former, ``output_query`` the feed-forward of the queries;
    the plain ``intermediate`` and ``output`` belong to text.
    """
    if name == "query_tokens":
        return "query_tokens_NW"
    if name.startswith("ln_vision."):
        return "token_norm." + name.removeprefix("ln_vision.")
    if name.startswith(_BERT + "embeddings.LayerNorm."):
        return "qformer.layernorm." + name.rsplit(".", 1)[1]
    if name.startswith(_BERT + "embeddings."):
        return _TEXT
    if match := _LAYER.fullmatch(name):
        if match[2].startswith(("intermediate.", "output.")):
            return _TEXT
        return "qformer." + name.removeprefix(_BERT).replace("attention.self.", "attention.attention.")
    for prefix, reason in _OTHER_PARTS.items():
        if name.startswith(prefix):
            return LeftOut(reason)
    return name


def read_perceiver(published: Published, token_dim: int) -> tuple[dict[str, Tensor], PartMapping]:
    """Our perceiver's tensors, in fp32, for an encoder whose tokens have this width.

    Raises:
        CorruptArtefactError: there is no Q-Former, one of its tensors is missing or of another shape, or nobody knows what a
            tensor is for.
    """
    tensors = dict(published.tensors)
    queries = tensors.get("query_tokens")
    if queries is None or queries.ndim != 3 or not any(_LAYER.fullmatch(name) for name in tensors):
        raise CorruptArtefactError("This is no BLIP-2 checkpoint of LAVIS: it has no query_tokens or no Qformer.")
    tensors["query_tokens"] = queries[0]
    with torch.device("meta"):
        perceiver = Perceiver(_shape(tensors), num_queries=queries.shape[1], token_dim=token_dim)
    wanted = {name: tensor.shape for name, tensor in perceiver.state_dict().items()}
    found, mapping = map_by_name(PART, Published(tensors, published.files), wanted, perceiver_name)
    return {name: tensor.float() for name, tensor in found.items()}, mapping


def _shape(tensors: dict[str, Tensor]) -> PerceiverConfig:
    """What the tensors tell; the number of heads is no part of any shape, so it stays out of it."""
    parts = [(int(match[1]), match[2]) for name in tensors if (match := _LAYER.fullmatch(name))]
    looking = sorted({layer for layer, part in parts if part.startswith("crossattention.")})
    num_layers, hidden = 1 + max(layer for layer, _ in parts), tensors["query_tokens"].shape[1]
    wide = tensors.get(f"{_BERT}encoder.layer.0.intermediate_query.dense.weight")
    return PerceiverConfig(
        hidden_size=hidden,
        intermediate_size=4 * hidden if wide is None else wide.shape[0],
        num_layers=num_layers,
        num_heads=1,
        cross_attention_frequency=looking[1] if len(looking) > 1 else num_layers,
    )
