"""Arithmetic on the configuration against the real modules, on the meta device: parameters and the encoder's FLOPs, exactly."""

from __future__ import annotations

import pytest
import torch
from chatsearch.model.config import PROJECTIONS, ClipConfig, EfficientNetLite0Config, LoraConfig, SearcherConfig
from chatsearch.model.lora import add_adapters
from chatsearch.model.searcher import ChatSearcher
from chatsearch.model.size import searcher_parts, vision_flops, vision_parameters
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


@pytest.mark.parametrize("projections", [PROJECTIONS, ("q_proj", "v_proj"), ("k_proj", "down_proj")], ids=str)
@each(SIZES)
def test_adapters_have_the_parameters_of_the_modules(config: SearcherConfig, projections: tuple) -> None:
    lora = LoraConfig(rank=4, projections=projections)
    with torch.device("meta"):
        searcher = ChatSearcher(config)
        add_adapters(searcher, lora, seed=0)
    language = searcher_parts(config, lora)[0]
    assert language.parameters == sum(p.numel() for p in searcher.language.parameters())
    assert language.trained == sum(p.numel() for p in searcher.language.parameters() if p.requires_grad)


@each(
    {
        **SIZES,
        "small pictures": model.small().replace(vision=EfficientNetLite0Config(image_size=96)),
        "another clip": model.paper().replace(vision=ClipConfig(image_size=56, hidden_size=64, num_layers=3)),
    }
)
def test_the_encoder_has_the_parameters_and_flops_of_the_network(config: SearcherConfig) -> None:
    vision = config.vision
    with torch.device("meta"):
        network = build_network(vision)
    assert vision_parameters(vision) == sum(p.numel() for p in network.parameters())
    with torch.no_grad():
        counted = flops_of(lambda: network(torch.zeros(1, 3, vision.image_size, vision.image_size)))
    assert vision_flops(vision) == counted
