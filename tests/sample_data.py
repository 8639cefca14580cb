"""Where the samples lie that tests and benchmarks use: photographs in ``captioned/``, records of datasets in ``formats/``."""

from __future__ import annotations

import os
from pathlib import Path

ABSENT = "no sample data at {folder}: set CHATSEARCH_SAMPLE_DATA to a folder that has captioned/ and formats/"


def sample_folder() -> Path:
    """The folder, whether it is there or not."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    return Path(os.environ.get("CHATSEARCH_SAMPLE_DATA", default))
