"""Training steps through Ray Data: what comes out is what the plain function builds, from any step on."""

from __future__ import annotations

import functools
import io
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
from chatsearch.corpora.base import Sample
from chatsearch.corpora.config import ScenesConfig
from chatsearch.data.config import LoaderConfig, PrepareConfig, StreamConfig
from chatsearch.data.part import commit_shards, write_part
from chatsearch.data.steps import StepBuilder
from chatsearch.data.stream import Unhurried, rank_batches
from chatsearch.data.tokenizer import train_byte_bpe
from chatsearch.errors import ConfigError, IncompleteArtefactError
from chatsearch.kinds import DOCUMENT_SHARDS
from chatsearch.manifest import begin_output
from chatsearch.types import Document, Kind, Segment, content_hash
from PIL import Image

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_session")]


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    samples = []
    for number in range(30):
        buffer = io.BytesIO()
        Image.new("RGB", (9, 8), (number, 1, 2)).save(buffer, "PNG")
        name = content_hash(buffer.getvalue())
        segments = (Segment(image=name), Segment(text=f"picture number {number}"))
        samples.append(Sample(Document(f"{number}", Kind.CAPTION, segments), {name: buffer.getvalue()}))
    folder = tmp_path_factory.mktemp("stream") / "shards"
    output = begin_output(str(folder), DOCUMENT_SHARDS, PrepareConfig(corpus=ScenesConfig()), {})
    commit_shards(output, "test", [write_part(output.folder, 0, samples)])
    return str(folder)


@pytest.fixture(scope="module")
def builder(uri: str) -> StepBuilder:
    tokenizer = train_byte_bpe(["picture number 1 2 3"], 300)
    stream = StreamConfig(shards=uri, per_step=6)
    return StepBuilder((stream,), tokenizer, 3, 48, num_micro_batches=2, preprocess=np.asarray)


def as_bytes(batches) -> list[dict[str, bytes]]:
    return [{name: array.tobytes() for name, array in batch.to_arrays().items()} for batch in batches]


def test_ray_delivers_the_steps_in_order_from_any_start_across_windows(builder: StepBuilder) -> None:
    loader = LoaderConfig(num_tasks=2, cpus_per_task=0.25, steps_per_task=3, steps_per_window=8)
    got = list(rank_batches(builder, 1, 2, start=5, stop=25, loader=loader))
    assert [step for step, _ in got] == list(range(5, 25))
    for step, batches in got:
        assert as_bytes(batches) == as_bytes(builder.build(step, 1, 2))


def test_it_runs_inside_a_worker_that_holds_the_cpus_and_frees_its_own_when_closed(builder: StepBuilder) -> None:
    @ray.remote(num_cpus=3.5)
    def work() -> list[int]:
        loader = LoaderConfig(cpus_per_task=0.5, steps_per_task=2)
        batches = rank_batches(builder, 0, 1, start=0, stop=100_000, loader=loader)
        steps = [next(batches)[0] for _ in range(5)]
        batches.close()
        return steps

    assert ray.get(work.remote(), timeout=120) == [0, 1, 2, 3, 4]
    assert ray.get(work.remote(), timeout=120) == [0, 1, 2, 3, 4]  # would wait for ever on a leaked actor's CPU


def test_the_scheduling_loop_rests_while_what_it_built_waits_to_be_read(
    builder: StepBuilder, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns: list[float] = []
    executors: list[Any] = []
    rest = Unhurried.on_execution_step

    def noted(callback: Unhurried, executor: Any) -> None:
        turns.append(time.monotonic())
        executors.append(executor)
        rest(callback, executor)

    monkeypatch.setattr(Unhurried, "on_execution_step", noted)
    large = functools.partial(np.resize, new_shape=(3, 600, 600))  # far more in all than the object store holds
    steps = StepBuilder(builder.streams, builder.tokenizer, 3, 48, preprocess=large)
    batches = rank_batches(steps, 0, 1, start=0, stop=200, loader=LoaderConfig(steps_per_task=2))
    next(batches)
    time.sleep(8)  # a slow step: whatever may be built ahead is
    late = [at for at in turns if at > turns[-1] - 2]
    built = max(operator.metrics.rows_task_outputs_generated for operator in executors[-1]._topology)
    batches.close()
    assert 0 < built < 200, "all was built: nothing had to wait"
    assert 0 < len(late) < 50  # left to itself it turns over 500 times a second


def test_documents_without_an_example_come_by_name(builder: StepBuilder) -> None:
    short = StepBuilder(builder.streams, builder.tokenizer, 3, 7)
    got = [batch.rejected for _, batches in rank_batches(short, 0, 1, start=0, stop=3) for batch in batches]
    assert [len(reasons) for reasons in got] == [6, 6, 6]
    assert all("max_length is 7" in reason for reasons in got for reason in reasons)


def test_errors_come_out_under_their_own_names(builder: StepBuilder, tmp_path: Path) -> None:
    narrow = StepBuilder(builder.streams, builder.tokenizer, 3, 16, num_rows=1)
    with pytest.raises(ConfigError, match="num_rows is 1") as caught:
        list(rank_batches(narrow, 0, 1, start=0, stop=9))
    assert type(caught.value) is ConfigError
    nowhere = StepBuilder((StreamConfig(shards=str(tmp_path / "none")),), builder.tokenizer, 3, 16)
    with pytest.raises(IncompleteArtefactError, match="nothing is there"):
        next(rank_batches(nowhere, 0, 1, start=0, stop=9))
