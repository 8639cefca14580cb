"""Norms of the ``fold`` job."""

from __future__ import annotations

from chatsearch.index.config import FoldConfig

from jobs.recipes.places import SMALL, TINY, Places


def tiny(places: Places = TINY) -> FoldConfig:
    """The held-out scenes as the trained model sees them."""
    return FoldConfig(features=places.gallery_features, model=places.instruct_model, output=places.at("norms"))


def small(places: Places = SMALL) -> FoldConfig:
    """The held-out photographs as the trained model sees them."""
    return tiny(places)
