"""ChatSearcher: reads text and pictures in one stream, answers in words or with a query for pictures.

An image block is ``[IMG] <CLS> q1 .. qN [/IMG]``. ``[IMG]`` and ``[/IMG]`` are tokens; the slots between
hold W_c f_CLS and W_q q. The retrieval query is read at ``[IMG]``, one position before ``<CLS>``: the causal
mask keeps it blind to the picture.

Shapes: R rows of L positions, H hidden width, I pictures, D numbers of f_CLS, T tokens of width E, N queries
of width W, d retrieval width, V words with the control tokens.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import DynamicCache

from chatsearch.model.config import SearcherConfig
from chatsearch.model.language import LanguageModel
from chatsearch.model.perceiver import Perceiver


class _BoundedAbove(torch.autograd.Function):
    """min(x, bound) whose gradient vanishes only where a descent step would push further over the bound.

    With a plain clamp a value that has stepped over once gets no gradient any more and can never come back.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, bound: float) -> Tensor:
        ctx.save_for_backward(x >= bound)
        return x.clamp(max=bound)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (over,) = ctx.saved_tensors
        (grad,) = grads
        return grad.masked_fill(over & (grad < 0), 0.0), None


class ChatSearcher(nn.Module):
    """Everything that is trained. The frozen vision encoder stands outside: features come in.

    Heads are methods of their own: :meth:`word_logits` (M_t), :meth:`query_embedding` (M_v) and
    :meth:`gallery_embedding` (M_Q).
    """

    def __init__(self, config: SearcherConfig) -> None:
        super().__init__()
        self.config = config
        feature_dim, hidden = config.vision.feature_dim, config.language.hidden_size
        self.language = LanguageModel(config.language)
        self.perceiver = Perceiver(config.perceiver, num_queries=config.num_queries, token_dim=config.vision.token_dim)
        self.input_cls = nn.Linear(feature_dim, hidden)  # W_c
        self.input_queries = nn.Linear(config.perceiver.hidden_size, hidden)  # W_q
        self.query_head = nn.Linear(hidden, config.retrieval_dim, bias=False)  # M_v
        self.gallery_head = nn.Linear(feature_dim, config.retrieval_dim, bias=False)  # M_Q
        # One number in one dimension: DeepSpeed sends parameters as bytes, and torch cannot view a scalar so.
        self.log_scale = nn.Parameter(torch.tensor([-math.log(config.tau0)]))
        if config.freeze_language:
            self.language.decoder.requires_grad_(False)
        if config.freeze_language or config.freeze_words:
            self.language.decoder.embed_tokens.requires_grad_(False)
            self.language.head_VH.requires_grad_(False)

    def enable_activation_checkpointing(self) -> None:
        """Recompute decoder layers in the backward pass instead of keeping their activations."""
        self.language.decoder.gradient_checkpointing_enable({"use_reentrant": False})

    @property
    def scale(self) -> Tensor:
        """1 / tau = exp(s), s bounded above by ``max_log_scale``."""
        return _BoundedAbove.apply(self.log_scale[0].float(), self.config.max_log_scale).exp()

    def image_inputs(self, cls_ID: Tensor, tokens_ITE: Tensor) -> Tensor:
        """What fills ``<CLS> q1 .. qN`` of each picture: (I, N + 1, H)."""
        dtype = self.input_cls.weight.dtype
        first_I1H = self.input_cls(cls_ID.to(dtype))[:, None]
        queries_INH = self.input_queries(self.perceiver(tokens_ITE.to(dtype)).to(dtype))
        return torch.cat([first_I1H, queries_INH], dim=1)

    def input_embeddings(
        self, input_ids_RL: Tensor, image_row_I: Tensor, image_col_I: Tensor, cls_ID: Tensor, tokens_ITE: Tensor
    ) -> Tensor:
        """Input embeddings (R, L, H); the N + 1 slots from ``(row, col)`` on hold the picture.

        ``image_col_I`` is the position of ``<CLS>``.
        """
        words_RLH = self.language.embed(input_ids_RL)
        block_ISH = self.image_inputs(cls_ID, tokens_ITE).to(words_RLH.dtype)
        slots_S = torch.arange(self.config.num_queries + 1, device=image_col_I.device)
        return words_RLH.index_put((image_row_I[:, None], image_col_I[:, None] + slots_S), block_ISH)

    def forward(
        self,
        input_ids_RL: Tensor,
        position_ids_RL: Tensor,
        *,
        image_row_I: Tensor,
        image_col_I: Tensor,
        cls_ID: Tensor,
        tokens_ITE: Tensor,
    ) -> Tensor:
        """Hidden states after the final norm, (R, L, H), of rows of packed documents.

        Args:
            input_ids_RL: word and control ids; what stands in image slots is not looked at.
            position_ids_RL: restart at 0 where a document begins. Documents do not see each other.
            image_row_I: row of each picture.
            image_col_I: position of its ``<CLS>`` slot.
            cls_ID: f_CLS of each picture.
            tokens_ITE: its tokens.
        """
        embeddings_RLH = self.input_embeddings(input_ids_RL, image_row_I, image_col_I, cls_ID, tokens_ITE)
        return self.language(embeddings_RLH, position_ids_RL)

    def decode_step(self, embeddings_RLH: Tensor, cache: DynamicCache) -> Tensor:
        """Hidden states (R, L, H) of positions that continue what the cache holds; the cache grows by L.

        All rows must be of one length: nothing is masked. Start with :meth:`new_cache`.
        """
        return self.language.step(embeddings_RLH, cache)

    def new_cache(self) -> DynamicCache:
        """An empty cache for :meth:`decode_step`."""
        return self.language.new_cache()

    def image_states(self, hidden_RLH: Tensor, image_row_I: Tensor, image_col_I: Tensor) -> Tensor:
        """h_I (I, H): the state at ``[IMG]``, one position before ``<CLS>``."""
        return hidden_RLH[image_row_I, image_col_I - 1]

    def word_logits(self, hidden_nH: Tensor) -> Tensor:
        """M_t: (..., H) to (..., V)."""
        return self.language.logits(hidden_nH)

    def query_embedding(self, state_IH: Tensor) -> Tensor:
        """unit(h_I M_v), float32, (..., d)."""
        return F.normalize(F.linear(state_IH.float(), self.query_head.weight.float()), dim=-1)

    def gallery_embedding(self, cls_ID: Tensor) -> Tensor:
        """unit(f_CLS M_Q), float32, (..., d)."""
        return F.normalize(F.linear(cls_ID.float(), self.gallery_head.weight.float()), dim=-1)
