"""The language model: a Llama decoder whose vocabulary ends in two control tokens.

The control tokens have rows of their own instead of two more rows in the embedding matrix. So pretrained
weights load strictly and unchanged, and the frozen-LLM ablation freezes exactly the language model.

Shapes: R rows of L positions, H hidden width, V words of text, n positions of any number.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import DynamicCache, LlamaConfig, LlamaModel

from chatsearch.errors import CorruptArtefactError
from chatsearch.model import attention
from chatsearch.model.config import NUM_CONTROL_TOKENS, Attention, LanguageConfig

HEAD = "lm_head.weight"
DECODER = "model."


def llama_config(config: LanguageConfig) -> LlamaConfig:
    """Our shape in the words of transformers."""
    llama = LlamaConfig(
        vocab_size=config.vocab_size,
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        num_hidden_layers=config.num_layers,
        num_attention_heads=config.num_heads,
        num_key_value_heads=config.num_key_value_heads,
        max_position_embeddings=config.max_positions,
        rms_norm_eps=config.rms_norm_eps,
        rope_parameters={"rope_type": "default", "rope_theta": config.rope_theta},
        tie_word_embeddings=config.tie_embeddings,
        initializer_range=config.initializer_range,
        bos_token_id=None,
        eos_token_id=None,
    )
    llama._attn_implementation = attention.register()
    return llama


class LanguageModel(nn.Module):
    """Decoder, word embeddings, the rows of the control tokens, and M_t."""

    def __init__(self, config: LanguageConfig) -> None:
        super().__init__()
        self.config = config
        self.attention: Attention = "auto"
        self.decoder = LlamaModel(llama_config(config))
        self.control_2H = self._rows(NUM_CONTROL_TOKENS)
        tied = config.tie_embeddings
        self.head_VH = self.decoder.embed_tokens.weight if tied else self._rows(config.vocab_size)
        self.control_head_2H = self.control_2H if tied else self._rows(NUM_CONTROL_TOKENS)

    def _rows(self, count: int) -> nn.Parameter:
        return nn.Parameter(torch.empty(count, self.config.hidden_size).normal_(std=self.config.initializer_range))

    def word_weights(self) -> dict[str, Tensor]:
        """All tensors but the control tokens', under the names that Llama checkpoints use."""
        weights = {DECODER + name: tensor for name, tensor in self.decoder.state_dict().items()}
        if not self.config.tie_embeddings:
            weights[HEAD] = self.head_VH.detach()
        return weights

    def load_word_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Take over a Llama checkpoint and start the control tokens from it.

        A checkpoint with more layers gives its first ones.

        Raises:
            CorruptArtefactError: a tensor is missing, left over or of another shape.
        """
        layers = DECODER + "layers."
        kept = {
            name: tensor
            for name, tensor in weights.items()
            if not name.startswith(layers) or int(name.removeprefix(layers).split(".")[0]) < self.config.num_layers
        }
        head = kept.pop(HEAD, None)
        if (head is None) != self.config.tie_embeddings:
            raise CorruptArtefactError(
                f"The checkpoint has {'no' if head is None else 'an'} output matrix of its own ({HEAD}), so its embeddings are "
                f"{'tied' if head is None else 'not tied'}: set language.tie_embeddings to {str(head is None).lower()}."
            )
        try:
            self.decoder.load_state_dict(
                {name.removeprefix(DECODER): tensor for name, tensor in kept.items()}, strict=True
            )
        except RuntimeError as error:
            raise CorruptArtefactError(
                f"These weights do not fit the language model: {' '.join(str(error).split())[:400]}. "
                "Use a configuration with the checkpoint's shape."
            ) from error
        if head is not None:
            if head.shape != self.head_VH.shape:
                raise CorruptArtefactError(
                    f"{HEAD} has shape {tuple(head.shape)}; the configuration wants {tuple(self.head_VH.shape)}."
                )
            with torch.no_grad():
                self.head_VH.copy_(head)
        self.reset_control_tokens()

    @torch.no_grad()
    def reset_control_tokens(self) -> None:
        """Start the control tokens at the mean word, a little apart, as is usual for words added late."""
        rows = [(self.control_2H, self.decoder.embed_tokens.weight)]
        if not self.config.tie_embeddings:
            rows.append((self.control_head_2H, self.head_VH))
        for control_2H, words_VH in rows:
            spread = words_VH.float().std().item()
            noise_2H = torch.randn(control_2H.shape, generator=torch.Generator().manual_seed(0))
            control_2H.copy_(words_VH.float().mean(0) + 0.1 * spread * noise_2H.to(words_VH.device))

    def embed(self, input_ids_RL: Tensor) -> Tensor:
        """Input embeddings (R, L, H); the ids V and V + 1 are ``[IMG]`` and ``[/IMG]``."""
        num_words = self.config.vocab_size
        words_RLH = self.decoder.embed_tokens(input_ids_RL.clamp(max=num_words - 1))
        control_RLH = F.embedding((input_ids_RL - num_words).clamp(min=0), self.control_2H)
        return torch.where((input_ids_RL >= num_words)[..., None], control_RLH, words_RLH)

    def forward(self, embeddings_RLH: Tensor, position_ids_RL: Tensor) -> Tensor:
        """Hidden states after the final norm, (R, L, H).

        Positions that restart mark where a packed document begins: documents do not see each other. That
        holds only without a mask and without a cache, which is why neither is an argument here.

        Raises:
            ConfigError: the attention asked for does not run on this device in this precision.
        """
        kernel = attention.choose(self.attention, embeddings_RLH.device, attention.pass_dtype(embeddings_RLH))
        return self.decoder(
            inputs_embeds=embeddings_RLH,
            position_ids=position_ids_RL,
            use_cache=False,
            **attention.document_inputs(kernel, position_ids_RL),
        ).last_hidden_state

    def step(self, embeddings_RLH: Tensor, cache: DynamicCache) -> Tensor:
        """Hidden states (R, L, H) of positions that continue what the cache holds; the cache grows by L."""
        return self.decoder(inputs_embeds=embeddings_RLH, past_key_values=cache, use_cache=True).last_hidden_state

    def new_cache(self) -> DynamicCache:
        """An empty cache for :meth:`step`."""
        return DynamicCache(config=self.decoder.config)

    def logits(self, hidden_nH: Tensor) -> Tensor:
        """M_t: (..., H) to (..., V + 2)."""
        return torch.cat([F.linear(hidden_nH, self.head_VH), F.linear(hidden_nH, self.control_head_2H)], dim=-1)
