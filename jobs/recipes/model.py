"""Shapes of the three sizes. Not a job: the other recipes build on these."""

from __future__ import annotations

from chatsearch.model.config import (
    SMOLLM2_135M,
    EfficientNetLite0Config,
    LanguageConfig,
    PerceiverConfig,
    SceneCnnConfig,
    SearcherConfig,
)


def tiny() -> SearcherConfig:
    """A small Llama and a small network on the synthetic scenes: minutes on two cores.

    After as many steps two layers of 160 stand at an image loss of 2.3 nats where four layers of 128 stand at 2.8.
    """
    return SearcherConfig(
        vision=SceneCnnConfig(),
        language=LanguageConfig(
            vocab_size=1000,
            hidden_size=160,
            intermediate_size=480,
            num_layers=2,
            num_heads=4,
            num_key_value_heads=4,
            max_positions=1024,
        ),
        perceiver=PerceiverConfig(hidden_size=64, intermediate_size=128, num_layers=2, num_heads=4),
        num_queries=4,
        retrieval_dim=128,
    )


def small() -> SearcherConfig:
    """The first six layers of SmolLM2-135M-Instruct, and EfficientNet-Lite0: real pretrained weights on a CPU.

    Untrained, the state behind a caption tells about as much of its picture after six layers as after all thirty, at a
    fifth of the time; the words' vectors, over half of what is left, stay as they are.
    """
    return SearcherConfig(
        vision=EfficientNetLite0Config(image_size=288),
        language=SMOLLM2_135M.replace(num_layers=6),
        freeze_words=True,
        perceiver=PerceiverConfig(hidden_size=192, intermediate_size=384, num_layers=2, num_heads=4),
        num_queries=4,
        retrieval_dim=256,
    )


def paper() -> SearcherConfig:
    """Vicuna-7B v1.5, CLIP ViT-L/14 and BLIP-2's Q-Former, as published."""
    return SearcherConfig()
