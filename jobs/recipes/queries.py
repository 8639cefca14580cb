"""Query vectors of the ``queries`` job."""

from __future__ import annotations

from chatsearch.evaluate.config import QueriesConfig

from jobs.recipes.places import SMALL, TINY, Places


def tiny(places: Places = TINY) -> QueriesConfig:
    """The held-out dialogues about scenes."""
    return QueriesConfig(data=places.test_shards, model=places.instruct_model, output=places.at("queries"))


def small(places: Places = SMALL) -> QueriesConfig:
    """The held-out requests for photographs."""
    return tiny(places)
