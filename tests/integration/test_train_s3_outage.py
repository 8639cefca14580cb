"""Training on a real S3 server that is killed in mid-run and started again: steps go on, nothing that was saved is lost."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from chatsearch.manifest import MANIFEST, open_artefact
from chatsearch.model.bundle import load_bundle
from chatsearch.storage import Folder
from chatsearch.testing.s3 import S3Server, s3_server

pytestmark = [pytest.mark.s3, pytest.mark.timeout(1800)]

SCRIPT = """
import contextlib, sys
from chatsearch.session import ray_session
from chatsearch.testing.training import tiny_training
from chatsearch.tracking.tracker import NullTracker
from chatsearch.train.run import train

class Told(NullTracker):
    def log_metrics(self, metrics, step=None):
        if step is not None:
            print("told", step, metrics["checkpoints_failed"], flush=True)

uri, num_workers, steps, patience_s, calm = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]), sys.argv[5]
settings = dict(num_workers=num_workers, steps=steps, keep_checkpoints=2, store_patience_s=patience_s)
with ray_session() if num_workers else contextlib.nullcontext():
    if calm:
        train(tiny_training(uri, output=calm, checkpoint_every=steps, **settings))
        print("calm", flush=True)
    train(tiny_training(uri, output=f"{uri}/model", log_every=1, checkpoint_every=3, **settings), Told())
"""


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    """Of this test alone: it is going to be killed."""
    monkeypatch.setenv("CHATSEARCH_CACHE", str(tmp_path / "cache"))
    with s3_server(tmp_path / "s3") as server:
        yield server


NOT_SAVED = "could not be saved, training goes on"
RESTARTED = "goes on from its newest checkpoint when the store answers"
"""Said where the store goes away just when Ray Train writes its own notes."""


class Run:
    """A training in a process of its own: Ray's processes read the keys from the environment in which they are started."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self._log = folder / "run.log"
        with self._log.open("wb") as sink:
            command = [sys.executable, "-c", SCRIPT, *arguments]
            self.process = subprocess.Popen(command, stdout=sink, stderr=subprocess.STDOUT, env=dict(os.environ))

    @property
    def said(self) -> str:
        return self._log.read_text(errors="replace")

    def wait_until(self, reached: Callable[[], bool], timeout_s: float = 600.0) -> None:
        deadline = time.monotonic() + timeout_s
        while not reached():
            assert self.process.poll() is None, self.said[-3000:]
            assert time.monotonic() < deadline, self.said[-3000:]
            time.sleep(0.02)

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        try:
            yield
        finally:
            self.process.kill()
            self.process.wait()


def whole_checkpoints(uri: str) -> list[str]:
    return [name for name in Folder(uri).list("checkpoints") if name.endswith(f"/{MANIFEST}")]


@pytest.mark.parametrize("num_workers", [0, pytest.param(2, marks=pytest.mark.ray)])
def test_a_store_that_goes_away_and_comes_back_costs_no_step(
    server: S3Server, tmp_path: Path, num_workers: int
) -> None:
    uri = server.uri("outage")
    steps = 24
    calm = str(tmp_path / "calm") if num_workers == 0 else ""
    run = Run(tmp_path, uri, str(num_workers), str(steps), "300", calm)
    with run.watched():
        run.wait_until(lambda: not calm or "calm\n" in run.said)
        run.wait_until(lambda: len(whole_checkpoints(f"{uri}/model")) > 0)
        server.kill()
        run.wait_until(lambda: NOT_SAVED in run.said or RESTARTED in run.said)
        server.start()
        run.process.wait(timeout=600)
        assert run.process.returncode == 0, run.said[-3000:]
    told = [line.split() for line in run.said.splitlines() if line.startswith("told ")]
    assert [int(step) for _, step, _ in told] == list(range(1, steps + 1)), "no step is missing"
    if RESTARTED not in run.said:
        assert int(told[-1][2]) > 0, "checkpoints that were not saved are counted"
        assert "answers again" in run.said
    made = open_artefact(f"{uri}/model", "model-bundle", verify=True)
    assert load_bundle(made.uri).config.retrieval_dim == 8
    if calm:
        assert made.manifest.files == open_artefact(calm, "model-bundle").manifest.files
    kept = whole_checkpoints(f"{uri}/model")
    assert [name.split("/")[-2][:13] for name in kept][-1] == f"step-{steps:08d}"
    assert len(kept) == 2 or (num_workers and len(kept) == 3), "Ray forgets a checkpoint that it could not delete"
    folders = {name.split("/")[2] for name in Folder(f"{uri}/model").list("checkpoints") if "/step-" in name}
    assert folders == {name.split("/")[2] for name in kept}, "nothing torn is left"


def test_a_store_that_stays_away_ends_the_run_by_name_and_the_next_one_goes_on(
    server: S3Server, tmp_path: Path
) -> None:
    uri = server.uri("lost")
    run = Run(tmp_path, uri, "0", "40", "1", "")
    with run.watched():
        run.wait_until(lambda: len(whole_checkpoints(f"{uri}/model")) > 0)
        server.kill()
        run.process.wait(timeout=600)
    assert run.process.returncode == 1
    last = run.said.strip().splitlines()[-1]
    assert "chatsearch.errors.UnreachableStoreError: Cannot " in last
    assert "store_patience_s" in last
    server.start()
    assert whole_checkpoints(f"{uri}/model")
    again = Run(tmp_path, uri, "0", "40", "60", "")
    with again.watched():
        again.process.wait(timeout=600)
    assert again.process.returncode == 0, again.said[-3000:]
    assert "goes on from the checkpoint of step" in again.said
    open_artefact(f"{uri}/model", "model-bundle", verify=True)
