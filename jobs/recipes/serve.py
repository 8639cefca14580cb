"""What the ``serve`` job serves."""

from __future__ import annotations

from chatsearch.config import Config, runtime
from chatsearch.storage import resolve
from pydantic import Field

from jobs.recipes.places import SMALL, TINY, Places
from serve.settings import PageSettings, ServeArgs

# Some the tiny model answers with pictures at once; to less it asks back, as the dialogues it has learnt from do.
_SCENES = (
    "show me a tiny purple key. and two purple hearts.",
    "i want a blue house. i also see a pink fish.",
    "find the fruit that keeps the doctor away.",
)
_PHOTOGRAPHS = (
    "Find a picture of a dog running on the beach.",
    "Show me two children playing football.",
    "I am looking for a man climbing a steep rock.",
)


class ServeConfig(Config):
    """One application on this machine."""

    args: ServeArgs
    host: str = runtime("127.0.0.1")
    """Anything but loopback is reachable by others, and there is no log-in."""
    port: int = Field(8000, ge=1, le=65535)


def tiny(places: Places = TINY) -> ServeConfig:
    """The quickstart's model over its held-out scenes."""
    # The conversations stay on this machine, wherever the artefacts lie.
    database = f"sqlite:///{resolve('runs/conversations.db')}"
    page = PageSettings(examples=_SCENES)
    return ServeConfig(args=ServeArgs(model=places.instruct_model, index=places.index, database=database, page=page))


def small(places: Places = SMALL) -> ServeConfig:
    """The quickstart's model over its held-out photographs."""
    config = tiny(places)
    # It has learnt from single rounds: left to decide in later ones, it loses itself in words.
    return config.replace(args=config.args.replace(page=PageSettings(mode="always", examples=_PHOTOGRAPHS)))
