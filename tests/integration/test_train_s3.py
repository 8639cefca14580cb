"""Training whose inputs, checkpoints and bundle all lie on a real S3 server."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from chatsearch.manifest import MANIFEST
from chatsearch.storage import Folder
from chatsearch.testing.training import tiny_training
from chatsearch.train.run import train

pytestmark = pytest.mark.s3


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHATSEARCH_CACHE", str(tmp_path / "cache"))


def checkpoints(folder: Folder) -> list[str]:
    return [name for name in folder.list("checkpoints") if name.endswith(f"/{MANIFEST}")]


def test_an_interrupted_run_on_s3_is_finished_from_its_checkpoint(s3: str) -> None:
    config = tiny_training(s3, steps=4, checkpoint_every=1, keep_checkpoints=9)
    first = train(config)
    *kept, third, fourth = checkpoints(first.folder)
    for lost in (third, fourth):
        first.folder.child(lost.removesuffix(f"/{MANIFEST}")).delete_all()
    # Without its manifest the output is an interrupted one.
    first.folder.delete(MANIFEST)
    started = {"kind": "model-bundle", "fingerprint": first.fingerprint}
    first.folder.write_bytes("started.json", json.dumps(started).encode())
    again = train(config)
    assert again.manifest.files == first.manifest.files
    steps = [name.split("/")[-2].rpartition("-") for name in checkpoints(first.folder)]
    assert [step for step, _, _ in steps] == [f"step-{number:08d}" for number in (1, 2, 3, 4)], "no step was made twice"
    before, after = ({attempt for _, _, attempt in part} for part in (steps[:2], steps[2:]))
    assert len(before) == len(after) == 1
    assert before != after, "the last two were made after the interruption"
    assert set(kept) < set(checkpoints(first.folder))
