"""Where training starts from, by size."""

from __future__ import annotations

from chatsearch.model.config import ClipConfig, FolderSource, HubSource, PublishedWeightsConfig
from chatsearch.train.config import TinyWeightsConfig

from jobs.recipes import model
from jobs.recipes.places import PAPER, SMALL, TINY, Places


def tiny(places: Places = TINY) -> TinyWeightsConfig:
    """Trained here in a minute: an encoder on drawn scenes, a small Llama on the scenes' text."""
    return TinyWeightsConfig(output=places.weights)


def small(places: Places = SMALL) -> PublishedWeightsConfig:
    """SmolLM2-135M-Instruct and EfficientNet-Lite0, from the package registry."""
    return PublishedWeightsConfig(vision=model.small().vision, output=places.weights)


def paper(places: Places = PAPER) -> PublishedWeightsConfig:
    """Vicuna-7B v1.5 and CLIP ViT-L/14 from the hub, BLIP-2's Q-Former from ``data/blip2``.

    LAVIS publishes the Q-Former made for this CLIP as one file outside of the hub, ``blip2_pretrained_vitL.pth``. Another
    folder: --set perceiver_source.uri=FOLDER; one drawn at random: --set perceiver_source=null.
    """
    return PublishedWeightsConfig(
        vision=ClipConfig(),
        vision_source=HubSource(repository="openai/clip-vit-large-patch14"),
        language_source=HubSource(repository="lmsys/vicuna-7b-v1.5"),
        perceiver_source=FolderSource(uri="data/blip2"),
        output=places.weights,
    )
