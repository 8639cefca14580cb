"""Bit flips and cuts in every file that a reader of a live gallery opens: 10,000, each refused before the first answer."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from tests.faults.points import run_points
from tests.unit.index.live.test_damage import a_gallery_with_all_kinds_of_files, damage_and_open

pytestmark = pytest.mark.fault
NUM_POINTS = 100
PER_POINT = 100


@pytest.mark.timeout(3600)
def test_ten_thousand_mutations(tmp_path: Path) -> None:
    uri, files = a_gallery_with_all_kinds_of_files(str(tmp_path))

    def point(number: int) -> dict[str, Any]:
        rng = random.Random(number)
        for _ in range(PER_POINT):
            damage_and_open(uri, files, rng)
        return {"mutations": PER_POINT}

    assert run_points("gallery-damage", NUM_POINTS, ("platform/chatsearch/index/live",), point) > 0
