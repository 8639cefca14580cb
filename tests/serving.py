"""A whole small thing to serve: scenes, a tiny random bundle and an index in two shards, made by the real jobs' code; and the job that does."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

from chatsearch.corpora.config import ScenesConfig, ScenesCounts
from chatsearch.data.config import PrepareConfig
from chatsearch.data.prepare import prepare
from chatsearch.index.build import build_index
from chatsearch.index.config import EmbedConfig, IndexConfig
from chatsearch.index.embed import embed
from chatsearch.testing.ports import free_ports
from chatsearch.testing.tiny import tiny_bundle

from serve.run import check_port
from serve.settings import Limits, ServeArgs

ROOT = Path(__file__).resolve().parents[1]
SERVES = "Stop with Ctrl-C"


def make_served(folder: str) -> ServeArgs:
    """Everything under one folder. Needs a Ray session."""
    counts = ScenesCounts(chatsearch_t=4, gallery=8)
    corpus = ScenesConfig(split="test", kinds=counts, num_distractors=2)
    shards = prepare(PrepareConfig(corpus=corpus, output=f"{folder}/scenes"))
    bundle = tiny_bundle(f"{folder}/model")
    features = embed(EmbedConfig(gallery=shards.uri, model=bundle.uri, output=f"{folder}/features"))
    index = build_index(IndexConfig(features=features.uri, model=bundle.uri, output=f"{folder}/index", num_shards=2))
    return ServeArgs(
        model=bundle.uri,
        index=index.uri,
        database=f"sqlite:///{folder}/conversations.db",
        limits=Limits(max_new_tokens=12, max_tokens=400),
    )


def _read(job: subprocess.Popen[str], said: list[str], ready: threading.Event) -> None:
    assert job.stdout is not None
    for line in job.stdout:
        said.append(line)
        if SERVES in line:
            ready.set()
    ready.set()


@contextlib.contextmanager
def serve_job(args: ServeArgs, ends_by: signal.Signals) -> Iterator[str]:
    """``jobs.serve`` in a process and a Ray session of its own; yields its address. A signal has to end it cleanly."""
    port = free_ports(1)[0]
    settings = (f"args={args.model_dump_json()}", f"port={port}")
    command = [sys.executable, "-m", "jobs.serve", "--no-tracking", *(w for s in settings for w in ("--set", s))]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    # Ignored where the tests run in the background of a script, and so it would be by the job.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        job = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
    finally:
        signal.signal(signal.SIGINT, before)
    with job:
        said: list[str] = []
        ready = threading.Event()
        # A pipe that nobody empties would hold the job up.
        reader = threading.Thread(target=_read, args=(job, said, ready))
        reader.start()
        try:
            ready.wait()
            assert SERVES in "".join(said), "".join(said)
            yield f"http://127.0.0.1:{port}"
            told = len(said)
            job.send_signal(ends_by)
            assert job.wait(120) == 0, "".join(said)
        finally:
            job.kill()
            reader.join()
    rest = "".join(said[told:])
    assert "Stopping." in rest
    assert "Traceback" not in rest
    check_port("127.0.0.1", port)
