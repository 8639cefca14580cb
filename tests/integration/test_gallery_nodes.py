"""Shards on three nodes over a real S3 server: equal to the gallery in one process, refused or marked as partial while one is down (R10)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from chatsearch.index.live.create import create_gallery
from chatsearch.storage import join

from tests.unit.index.synthetic import make_gallery

pytestmark = [pytest.mark.ray, pytest.mark.s3, pytest.mark.fault]
ROOT = Path(__file__).resolve().parents[2]


def test_a_lost_node_is_told_of_and_comes_back(s3: str) -> None:
    index = make_gallery(join(s3, "gallery")).index(3)
    live = join(s3, "live")
    create_gallery(live, index=index.uri)
    done = subprocess.run(
        [sys.executable, "-m", "tests.integration.nodes_run", index.uri, live],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "platform"), str(ROOT)])},
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    seen = json.loads(done.stdout.splitlines()[-1])
    refused = seen.pop("refused")
    assert "1 of 3 shards did not answer" in refused
    assert "of the gallery was searched; an answer needs 100.0% (min_coverage)" in refused
    assert "k is 0" in seen.pop("bad request")
    assert ["Did you mean 'number'" in message for message in seen.pop("unknown field")] == [True, True]
    assert seen == {
        "whole": [True, 1.0],
        "filtered": True,
        "live": True,
        "live filtered": True,
        "partial": [1, True],
        "partial hits": True,
        "back": [True, 1.0],
        "live back": True,
    }
