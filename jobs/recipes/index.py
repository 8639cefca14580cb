"""Indexes of the ``index`` job."""

from __future__ import annotations

from chatsearch.index.config import IndexConfig

from jobs.recipes.places import PAPER, SMALL, TINY, Places


def tiny(places: Places = TINY) -> IndexConfig:
    """The held-out scenes in two shards."""
    return IndexConfig(features=places.gallery_features, model=places.instruct_model, output=places.index, num_shards=2)


def small(places: Places = SMALL) -> IndexConfig:
    """The held-out photographs in two shards."""
    return tiny(places)


def paper(places: Places = PAPER) -> IndexConfig:
    """A gallery of millions, one shard a serving replica, built side by side."""
    return tiny(places).replace(num_shards=8, on_ray=True)
