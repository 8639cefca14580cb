"""Training whose inputs, checkpoints and bundle all lie on a real S3 server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from chatsearch.manifest import MANIFEST
from chatsearch.model.bundle import load_bundle
from chatsearch.storage import Folder

pytestmark = [pytest.mark.ray, pytest.mark.s3]

SCRIPT = """
import sys
from chatsearch.session import ray_session
from chatsearch.testing.training import tiny_training
from chatsearch.train.run import train

with ray_session():
    train(tiny_training(sys.argv[1], num_workers=2, steps=3, checkpoint_every=1, keep_checkpoints=1))
"""


def run(base: str) -> None:
    """In a process of its own: Ray's processes read the keys from the environment in which they are started."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, base],
        capture_output=True,
        text=True,
        env=dict(os.environ),
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]


def test_everything_may_lie_on_s3(s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHATSEARCH_CACHE", str(tmp_path / "cache"))
    run(s3)
    folder = Folder(f"{s3}/model")
    bundle = load_bundle(folder.uri)
    names = [name for name in folder.list("checkpoints") if name.endswith(f"/{MANIFEST}")]
    assert len(names) == 1
    assert "/step-00000003-" in names[0]

    # Without its manifest the output is an interrupted one: it is finished again from the checkpoint, to the same bytes.
    before = json.loads(folder.read_bytes(MANIFEST))
    folder.delete(MANIFEST)
    started = {"kind": "model-bundle", "fingerprint": bundle.fingerprint}
    folder.write_bytes("started.json", json.dumps(started).encode())
    run(s3)
    assert json.loads(folder.read_bytes(MANIFEST))["files"] == before["files"]
