"""Arithmetic on the configuration against the real modules, on the meta device: parameters and FLOPs, exactly."""

from __future__ import annotations

import pytest
import torch
from chatsearch.model.config import ClipConfig, SearcherConfig
from chatsearch.model.perceiver import Perceiver
from chatsearch.model.searcher import ChatSearcher
from chatsearch.model.size import (
    decoder_matrices,
    perceiver_matrices,
    searcher_parts,
    vision_flops,
    vision_parameters,
)
from chatsearch.model.vision import build_network
from chatsearch.testing.tiny import tiny_config
from torch.utils.flop_counter import FlopCounterMode

from jobs.recipes import model

CONFIGS = {
    "test": tiny_config(),
    "tiny": model.tiny(),
    "small": model.small(),
    "paper": model.paper(),
    "paper, frozen": model.paper().replace(freeze_language=True),
    "paper, frozen words": model.paper().replace(freeze_words=True),
    "small, frozen": model.small().replace(freeze_language=True),
}
SIZES = {name: CONFIGS[name] for name in ("test", "tiny", "small", "paper")}
MODULES = {
    "language model": ("language.",),
    "perceiver": ("perceiver.",),
    "projectors": ("input_cls.", "input_queries."),
    "heads": ("query_head.", "gallery_head.", "log_scale"),
}


def each(configs):
    return pytest.mark.parametrize("config", list(configs.values()), ids=list(configs))


def flops_of(run) -> int:
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


@each(CONFIGS)
def test_parts_have_the_parameters_of_the_modules(config: SearcherConfig) -> None:
    with torch.device("meta"):
        searcher = ChatSearcher(config)
    parts = searcher_parts(config)
    for part in parts:
        held = [p for name, p in searcher.named_parameters() if name.startswith(MODULES[part.name])]
        assert part.parameters == sum(p.numel() for p in held), part.name
        assert part.trained == sum(p.numel() for p in held if p.requires_grad), part.name
    assert sum(part.parameters for part in parts) == sum(p.numel() for p in searcher.parameters())


@each({**SIZES, "another clip": model.paper().replace(vision=ClipConfig(image_size=56, hidden_size=64, num_layers=3))})
def test_the_encoder_has_the_parameters_and_flops_of_the_network(config: SearcherConfig) -> None:
    vision = config.vision
    with torch.device("meta"):
        network = build_network(vision)
    assert vision_parameters(vision) == sum(p.numel() for p in network.parameters())
    with torch.no_grad():
        counted = flops_of(lambda: network(torch.zeros(1, 3, vision.image_size, vision.image_size)))
    assert vision_flops(vision) == counted


@each(SIZES)
def test_the_decoder_costs_six_flops_a_weight_and_attention_twelve_a_pair(config: SearcherConfig) -> None:
    language, length = config.language, 24

    def run() -> None:
        searcher = ChatSearcher(config).requires_grad_(True)
        # With a cache: looking for packed documents takes values, which meta tensors do not have.
        embeddings_RLH = torch.zeros(1, length, language.hidden_size, requires_grad=True)
        searcher.decode_step(embeddings_RLH, searcher.new_cache()).sum().backward()

    attention = 12 * language.num_layers * language.hidden_size * length**2
    assert flops_of(run) == 6 * decoder_matrices(language) * length + attention


@each(SIZES)
def test_the_perceiver_costs_six_flops_a_weight(config: SearcherConfig) -> None:
    vision, queries = config.vision, config.num_queries
    width = config.perceiver.hidden_size

    def run() -> None:
        perceiver = Perceiver(config.perceiver, num_queries=queries, token_dim=vision.token_dim)
        perceiver(torch.zeros(1, vision.num_tokens, vision.token_dim)).sum().backward()

    matrices = perceiver_matrices(config.perceiver, vision.token_dim)
    pairs = config.perceiver.num_layers * queries**2 + matrices.num_looking * queries * vision.num_tokens
    expected = 6 * (matrices.queries * queries + matrices.picture * vision.num_tokens) + 12 * width * pairs
    assert flops_of(run) == expected
