"""The perceiver: a Q-Former that turns the tokens of a picture into N queries.

Shapes: B pictures, T tokens of width E, N queries of width W.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import Blip2QFormerConfig, Blip2QFormerModel

from chatsearch.model.config import PerceiverConfig


class Perceiver(nn.Module):
    """BLIP-2's Q-Former with learnable query tokens and, as there, a layer norm over what it looks at."""

    def __init__(self, config: PerceiverConfig, *, num_queries: int, token_dim: int) -> None:
        super().__init__()
        self.query_tokens_NW = nn.Parameter(torch.empty(num_queries, config.hidden_size))
        nn.init.normal_(self.query_tokens_NW, std=0.02)
        self.token_norm = nn.LayerNorm(token_dim)
        self.qformer = Blip2QFormerModel(
            Blip2QFormerConfig(
                hidden_size=config.hidden_size,
                intermediate_size=config.intermediate_size,
                num_hidden_layers=config.num_layers,
                num_attention_heads=config.num_heads,
                cross_attention_frequency=config.cross_attention_frequency,
                hidden_dropout_prob=config.dropout,
                attention_probs_dropout_prob=config.dropout,
                encoder_hidden_size=token_dim,
            )
        )

    def forward(self, tokens_BTE: Tensor) -> Tensor:
        """Queries (B, N, W) of the pictures.

        Without pictures (B = 0) the parameters still hang on the graph and get zero gradients: a worker whose
        micro-batch has no picture takes part in the same reductions as the others.
        """
        if not len(tokens_BTE):
            return self(tokens_BTE.new_zeros(1, *tokens_BTE.shape[1:]))[:0]
        query_BNW = self.query_tokens_NW.expand(len(tokens_BTE), -1, -1)
        return self.qformer(query_embeds=query_BNW, encoder_hidden_states=self.token_norm(tokens_BTE)).last_hidden_state
