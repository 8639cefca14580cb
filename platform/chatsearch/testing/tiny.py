"""The smallest models that are whole: random weights, hidden width 32, two layers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from chatsearch.model.config import LanguageConfig, PerceiverConfig, SceneCnnConfig, SearcherConfig
from chatsearch.model.searcher import ChatSearcher
from chatsearch.model.vision import VisionEncoder, build_network

if TYPE_CHECKING:
    from chatsearch.data.tokenizer import ChatTokenizer
    from chatsearch.model.bundle import ModelBundle

SENTENCES = (
    "a red apple on the left of a blue car",
    "USER: find the green tree ASSISTANT: here it is",
    "what colour is the small ball in the middle?",
    "the fruit that keeps the doctor away, striped, on a dark background",
)


def tiny_tokenizer(vocab_size: int = 300) -> ChatTokenizer:
    """A byte-level tokenizer trained on a few sentences; it reads any text."""
    from chatsearch.data.tokenizer import train_byte_bpe

    return train_byte_bpe(SENTENCES, vocab_size)


def tiny_config(vocab_size: int = 300, num_queries: int = 2, *, freeze_language: bool = False) -> SearcherConfig:
    """Shape of the tiny searcher. ``vocab_size`` counts words without the two control tokens."""
    return SearcherConfig(
        vision=SceneCnnConfig(width=16, num_blocks=1, cell_dim=3, global_dim=5),
        language=LanguageConfig(
            vocab_size=vocab_size,
            hidden_size=32,
            intermediate_size=64,
            num_layers=2,
            num_heads=4,
            num_key_value_heads=2,
            max_positions=512,
        ),
        perceiver=PerceiverConfig(hidden_size=16, intermediate_size=32, num_layers=2, num_heads=2),
        num_queries=num_queries,
        retrieval_dim=8,
        freeze_language=freeze_language,
    )


def tiny_searcher(config: SearcherConfig | None = None, *, seed: int = 0) -> ChatSearcher:
    """A searcher with seeded random weights, in evaluation mode; the global random state is left alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return ChatSearcher(config or tiny_config()).eval()


def tiny_vision(config: SearcherConfig | None = None, *, seed: int = 0) -> VisionEncoder:
    """A frozen encoder with seeded random weights, of the kind that :func:`tiny_config` names."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = build_network((config or tiny_config()).vision)
        # PyTorch's default shrinks the signal layer by layer: without training, all pictures would look alike.
        for module in network.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        return VisionEncoder((config or tiny_config()).vision, network)


def tiny_bundle(uri: str, *, seed: int = 0) -> ModelBundle:
    """A whole random bundle, written to ``uri`` and opened from there."""
    from chatsearch.model.bundle import load_bundle, save_bundle

    tokenizer = tiny_tokenizer()
    config = tiny_config(tokenizer.text_vocab_size)
    inputs = {"seed": str(seed)}
    save_bundle(uri, tiny_searcher(config, seed=seed), tiny_vision(config, seed=seed), tokenizer, inputs=inputs)
    return load_bundle(uri)
