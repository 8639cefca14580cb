"""Fixtures of the index tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.unit.index import synthetic


@pytest.fixture
def make_gallery(tmp_path: Path) -> Callable[..., synthetic.Gallery]:
    def make(num_pictures: int = 60, *, num_twins: int = 0, seed: int = 0) -> synthetic.Gallery:
        return synthetic.make_gallery(str(tmp_path / f"gallery-{seed}"), num_pictures, num_twins=num_twins, seed=seed)

    return make
