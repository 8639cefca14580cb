"""An empty gallery for each test."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.index.live.galleries import empty_gallery


@pytest.fixture
def gallery(tmp_path: Path) -> str:
    return empty_gallery(str(tmp_path))
