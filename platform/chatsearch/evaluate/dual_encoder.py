"""A CLIP-style dual encoder: one vector from text, one from a picture, compared by cosine.

The text tower is the model's own starting language model, the picture side one linear layer over the same
frozen f_CLS. So it differs from ours in what is compared: it never reads pictures and text together.

Shapes: B texts, L tokens of the longest, H hidden width, d retrieval width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from chatsearch.data.tokenizer import ChatTokenizer
from chatsearch.evaluate.contrastive import (
    ContrastiveConfig,
    ContrastiveModel,
    Format,
    Trained,
    pad,
    states_by_length,
)
from chatsearch.index.vectors import Float32
from chatsearch.kinds import DUAL_ENCODER


class DualEncoderConfig(ContrastiveConfig):
    """Shape of a dual encoder."""

    pooling: Literal["last", "mean"]


class DualEncoder(ContrastiveModel):
    """Both towers."""

    def __init__(self, config: DualEncoderConfig) -> None:
        super().__init__(config)
        self.config = config
        # What speaks and what shows pictures is never used here.
        self.text.requires_grad_(False)
        self.text.decoder.requires_grad_(True)

    def text_states(self, ids_BL: Tensor, lengths_B: Tensor) -> Tensor:
        """What is projected of texts that are padded behind their end, (B, H)."""
        num_texts, num_positions = ids_BL.shape
        positions_BL = torch.arange(num_positions, device=ids_BL.device).expand(num_texts, -1)
        hidden_BLH = self.text(self.text.embed(ids_BL), positions_BL)
        if self.config.pooling == "last":
            return hidden_BLH[torch.arange(num_texts, device=ids_BL.device), lengths_B - 1]
        inside_BL1 = (positions_BL < lengths_B[:, None])[..., None].to(hidden_BLH.dtype)
        return (hidden_BLH * inside_BL1).sum(1) / lengths_B[:, None]


DUAL_ENCODER_FORMAT = Format(DUAL_ENCODER, "dual_encoder.safetensors", "dual encoder", DualEncoderConfig, DualEncoder)
TrainedDualEncoder = Trained[DualEncoder]


def text_ids(text: str, tokenizer: ChatTokenizer, max_length: int) -> list[int]:
    """Tokens of a text closed by ``</s>``; a longer one is cut, keeping the end."""
    return [*tokenizer.encode(text), tokenizer.eos_id][-max_length:]


def text_states(network: DualEncoder, rows: Sequence[Sequence[int]], pad_id: int, *, group_size: int) -> Tensor:
    """States (B, H) of token rows, in their order."""
    return states_by_length(rows, lambda group: network.text_states(*pad(group, pad_id)), group_size)


@torch.inference_mode()
def encode_texts(encoder: TrainedDualEncoder, texts: Sequence[str], *, batch_size: int = 64) -> Float32:
    """Unit vectors of texts, in their order."""
    rows = [text_ids(text, encoder.tokenizer, encoder.network.config.max_length) for text in texts]
    states_BH = text_states(encoder.network, rows, encoder.tokenizer.pad_id, group_size=batch_size)
    return encoder.network.text_embedding(states_BH).numpy()
