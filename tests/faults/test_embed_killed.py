"""``kill -9`` of an embed job in mid-run: the next run makes only the missing parts, and the store is byte-identical."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from chatsearch.index.embed import embed
from chatsearch.index.features import FeatureStore, part_name
from chatsearch.types import Kind

from tests.integration.embed_samples import config_for, contents, make_model, picture, sample, write_shards

pytestmark = [pytest.mark.ray, pytest.mark.fault]
NUM_PICTURES = 400


@pytest.mark.usefixtures("ray_session")
def test_a_killed_job_is_continued(tmp_path: Path) -> None:
    import ray

    model = make_model(tmp_path / "model")
    shards = write_shards(
        tmp_path / "s", [[sample(f"item-{n}", Kind.GALLERY, picture(n)) for n in range(NUM_PICTURES)]]
    )
    cut = config_for(shards, model, tmp_path / "cut", images_per_part=2)
    program = (
        "import sys, ray\n"
        "from chatsearch.index.config import EmbedConfig\n"
        "from chatsearch.index.embed import embed\n"
        "ray.init(address=sys.argv[1], log_to_driver=False)\n"
        "embed(EmbedConfig.model_validate_json(sys.argv[2]))\n"
    )
    address = ray.get_runtime_context().gcs_address
    job = subprocess.Popen([sys.executable, "-c", program, address, cut.model_dump_json()])
    try:
        deadline = time.monotonic() + 120
        while not (tmp_path / "cut" / part_name(3)).exists():
            assert job.poll() is None, "the job ended before it could be killed"
            assert time.monotonic() < deadline, "the job made no part"
            time.sleep(0.01)
    finally:
        os.kill(job.pid, signal.SIGKILL)
        job.wait()
    assert not (tmp_path / "cut" / "manifest.json").exists()
    time.sleep(1.0)  # its actors end with it; a part they were writing appears whole or not at all
    done = {path: path.stat().st_mtime_ns for path in (tmp_path / "cut" / "features").glob("part-*")}
    assert 4 <= len(done) < NUM_PICTURES // 2
    store = FeatureStore(embed(cut))
    assert {path: path.stat().st_mtime_ns for path in done} == done
    assert len(store) == len(set(store.hashes)) == NUM_PICTURES
    embed(cut.replace(output=str(tmp_path / "whole")))
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")
