"""The whole path, by size."""

from __future__ import annotations

from typing import Literal

from chatsearch.config import Config, runtime
from pydantic import Field

from jobs.recipes.places import SMALL, TINY


class QuickstartConfig(Config):
    """All steps from pictures to the chat page."""

    size: Literal["tiny", "small"] = "tiny"
    data: str = runtime("")
    """Captioned folder of photographs; empty takes the synthetic scenes world."""
    output: str = TINY.root
    """Folder or ``s3://bucket/prefix`` below which every artefact goes."""
    serve: bool = runtime(True)
    """Serve the chat page after the table, until Ctrl-C."""
    overwrite: bool = runtime(False)
    """Make again, in place, what was made from other data or with another recipe; what still fits is left alone."""
    port: int = Field(8000, ge=1, le=65535)


def tiny() -> QuickstartConfig:
    """The synthetic scenes world with a small Llama: minutes on two CPU cores."""
    return QuickstartConfig()


def small() -> QuickstartConfig:
    """Photographs with SmolLM2-135M-Instruct and EfficientNet-Lite0; name them with --set data=FOLDER."""
    return QuickstartConfig(size="small", output=SMALL.root)
