"""FROMAGe: a frozen language model that reads pictures through a linear map and retrieves by the state of one token.

Koh, Salakhutdinov, Fried, "Grounding Language Models to Images for Multimodal Inputs and Outputs", ICML 2023 (arXiv
2301.13823; code: github.com/kohjingyu/fromage). Trained: the map from f_CLS to k input embeddings, the embedding of
``[RET]``, the maps of its state and of f_CLS into the retrieval space, and the temperature.

Read as published, but for three things, taken as ours has them, so that the models differ in their design alone: the same
starting language model in place of OPT; maps into the retrieval space without bias, as the paper writes them; no loss on
saying ``[RET]``, which is given wherever recall is measured.

Shapes: B rows of L positions, I pictures in them, D width of f_CLS, H hidden width, k visual tokens, d retrieval width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import PositiveInt
from torch import Tensor, nn

from chatsearch.evaluate.contrastive import ContrastiveConfig, ContrastiveModel, Format, Trained, pad, states_by_length
from chatsearch.evaluate.fromage_rows import FromageRow, retrieval_row
from chatsearch.index.vectors import Float32
from chatsearch.kinds import FROMAGE
from chatsearch.model.objective import IGNORE, LossSum, word_loss
from chatsearch.types import Segment

Features = Callable[[Sequence[str]], Float32]
"""f_CLS (n, D) of pictures by content hash, in their order."""


class FromageConfig(ContrastiveConfig):
    """Shape of FROMAGe."""

    num_visual_tokens: PositiveInt


class Fromage(ContrastiveModel):
    """The frozen language model and everything trained around it."""

    def __init__(self, config: FromageConfig) -> None:
        super().__init__(config)
        self.config = config
        self.text.requires_grad_(False)
        hidden = config.language.hidden_size
        self.visual = nn.Linear(config.feature_dim, config.num_visual_tokens * hidden)
        self.ret_H = nn.Parameter(torch.zeros(hidden))

    @torch.no_grad()
    def start_inputs(self, cls_ID: Tensor) -> None:
        """Start ``[RET]`` near the mean word, and the visual map so that these pictures enter as large as words do."""
        self.ret_H.copy_(self.text.control_2H[0])
        words = self.text.decoder.embed_tokens.weight.double().square().mean().sqrt()
        factor = words / self.visual(cls_ID).double().square().mean().sqrt()
        for parameter in self.visual.parameters():
            parameter.mul_(factor.to(parameter.dtype))

    def hidden(self, rows: Sequence[FromageRow], features: Features, pad_id: int) -> Tensor:
        """States (B, L, H) of rows that are padded behind their end: what stands there is not seen from before it."""
        ids_BL, _ = pad([row.ids for row in rows], pad_id)
        is_ret_BL1 = (ids_BL == self.config.language.vocab_size)[..., None]
        embeddings_BLH = torch.where(is_ret_BL1, self.ret_H, self.text.embed(ids_BL))
        places = [(number, column) for number, row in enumerate(rows) for column, _ in row.images]
        if places:
            cls_ID = torch.from_numpy(np.ascontiguousarray(features([h for row in rows for _, h in row.images])))
            visual_IkH = self.visual(cls_ID).unflatten(-1, (self.config.num_visual_tokens, -1))
            row_I, column_I = torch.tensor(places).unbind(-1)
            slots_k = torch.arange(self.config.num_visual_tokens)
            embeddings_BLH = embeddings_BLH.index_put(
                (row_I[:, None], column_I[:, None] + slots_k), visual_IkH.to(embeddings_BLH.dtype)
            )
        positions_BL = torch.arange(ids_BL.shape[1]).expand(len(rows), -1)
        return self.text(embeddings_BLH, positions_BL)

    def states(self, rows: Sequence[FromageRow], features: Features, pad_id: int, *, group_size: int) -> Tensor:
        """States (B, H) at the end of rows, which is where ``[RET]`` stands, in their order."""

        def last_states(group: Sequence[FromageRow]) -> Tensor:
            ends_B = torch.tensor([len(row) - 1 for row in group])
            return self.hidden(group, features, pad_id)[torch.arange(len(group)), ends_B]

        return states_by_length(rows, last_states, group_size)

    def word_loss(self, rows: Sequence[FromageRow], features: Features, pad_id: int) -> LossSum:
        """Cross-entropy of the wanted words of rows, summed."""
        labels_BL, _ = pad([row.labels for row in rows], IGNORE)
        return word_loss(self.hidden(rows, features, pad_id), labels_BL, lambda nH: F.linear(nH, self.text.head_VH))


FROMAGE_FORMAT = Format(FROMAGE, "fromage.safetensors", "FROMAGe", FromageConfig, Fromage)
TrainedFromage = Trained[Fromage]


@torch.inference_mode()
def encode_contexts(
    fromage: TrainedFromage, contexts: Sequence[Sequence[Segment]], features: Features, *, batch_size: int = 64
) -> Float32:
    """Unit vectors of contexts with ``[RET]`` behind them, in their order."""
    network, tokenizer = fromage.network, fromage.tokenizer
    config = network.config
    rows = [
        retrieval_row(context, tokenizer, num_visual_tokens=config.num_visual_tokens, max_length=config.max_length)
        for context in contexts
    ]
    states_BH = network.states(rows, features, tokenizer.pad_id, group_size=batch_size)
    return network.text_embedding(states_BH).numpy()
