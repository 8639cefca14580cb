"""Galleries and encoders of the ``embed`` job."""

from __future__ import annotations

from chatsearch.index.config import EmbedConfig

from jobs.recipes.places import PAPER, SMALL, TINY, Places


def tiny_train(places: Places = TINY) -> EmbedConfig:
    """Every training picture with its tokens, so that training never runs the frozen encoder again."""
    return EmbedConfig(
        gallery=(places.align_shards, places.instruct_shards),
        model=places.weights,
        output=places.train_features,
        tokens=True,
        batch_size=128,
        images_per_part=4096,
    )


def tiny_gallery(places: Places = TINY) -> EmbedConfig:
    """Every picture of the held-out shards."""
    return EmbedConfig(
        gallery=(places.test_shards,), model=places.weights, output=places.gallery_features, tokens=True, batch_size=128
    )


def small_train(places: Places = SMALL) -> EmbedConfig:
    """Every training photograph with its tokens."""
    return tiny_train(places).replace(batch_size=32, images_per_part=512)


def small_gallery(places: Places = SMALL) -> EmbedConfig:
    """Every held-out photograph."""
    return tiny_gallery(places).replace(batch_size=32)


def paper_gallery(places: Places = PAPER) -> EmbedConfig:
    """A gallery through CLIP ViT-L/14, one encoder a GPU."""
    return EmbedConfig(
        gallery=(places.test_shards,),
        model=places.instruct_model,
        output=places.gallery_features,
        batch_size=256,
        images_per_part=8192,
        num_actors=8,
        gpus_per_actor=1.0,
        decode_threads=8,
    )
