"""What is reported beside the losses: rates, stalls and the share of the peak, per interval of the series."""

from __future__ import annotations

import time

import pytest
import torch
from chatsearch.errors import ChatSearchError
from chatsearch.testing.training import tiny_training
from chatsearch.train import reporter as reporter_module
from chatsearch.train.config import PlanConfig, TrainConfig
from chatsearch.train.flops import step_flops
from chatsearch.train.plan import peak_flops
from chatsearch.train.progress import StepReport
from chatsearch.train.reporter import Reporter, Waiting
from chatsearch.train.stopwatch import Stopwatch
from chatsearch.train.trainer import StepCost
from chatsearch.train.volume import Volume
from chatsearch.train.worker import WorkerJob

VOLUME = Volume(8, 10, 1200, 1000, 150_000)


class Clock:
    """The module's ``time``, which goes on only when told."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


class ListSink:
    def __init__(self) -> None:
        self.reports: list[StepReport] = []

    def post(self, report: StepReport) -> None:
        self.reports.append(report)

    def say(self, text: str) -> None: ...

    def give_up(self, error: ChatSearchError) -> None: ...

    def given_up(self) -> None: ...


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    return tiny_training(tmp_path_factory.mktemp("reporter"), log_every=2, steps=5, num_workers=2)


def reported(config: TrainConfig, monkeypatch: pytest.MonkeyPatch, rank: int = 0) -> list[StepReport]:
    """Five steps of 0.1 s, of which 0.02 s were waited and 0.01 s went into the queue."""
    clock, sink = Clock(), ListSink()
    monkeypatch.setattr(reporter_module, "time", clock)
    reporter = Reporter(WorkerJob(config, "run", "", sink), rank, None)
    for step in range(5):
        clock.now += 0.1
        reporter.after(step + 1, {"loss": 1.0}, StepCost(VOLUME, 0.01), 0.02)
    return sink.reports


def test_rates_are_those_of_the_interval(config: TrainConfig, monkeypatch) -> None:
    reports = reported(config, monkeypatch)
    assert [(report.step, report.tracked) for report in reports] == [(2, True), (4, True), (5, True)]
    flops = step_flops(config, VOLUME).model
    for report in reports:
        assert report.metrics == pytest.approx(
            {
                "loss": 1.0,
                "tokens_per_second": 12_000,
                "images_per_second": 100,
                "seconds_per_step": 0.1,
                "input_stall": 0.2,
                "queue_seconds": 0.01,
                "flops_per_second": flops / 0.1,
            }
        )


def test_mfu_is_of_the_peak_of_all_workers_and_only_where_that_is_known(config: TrainConfig, monkeypatch) -> None:
    named = config.replace(plan=PlanConfig(device="a100-40gb"))
    (first, *_) = reported(named, monkeypatch)
    assert first.metrics["mfu"] == pytest.approx(step_flops(config, VOLUME).model / 0.1 / peak_flops(named))
    assert "mfu" not in reported(config, monkeypatch)[0].metrics


def test_other_ranks_report_nothing(config: TrainConfig, monkeypatch) -> None:
    assert reported(config, monkeypatch, rank=1) == []


def test_waiting_counts_what_the_caller_waits_and_nothing_else() -> None:
    def slow():
        for number in range(3):
            time.sleep(0.02)
            yield number

    arriving = Waiting(slow())
    taken = []
    for number in arriving:
        time.sleep(0.05 * (number == 1))
        taken.append(arriving.take())
    assert len(taken) == 3
    assert all(seconds >= 0.02 for seconds in taken)
    assert arriving.take() < 0.02, "the end is no step"


def test_a_stopwatch_measures_its_stretch() -> None:
    stopwatch = Stopwatch(torch.device("cpu"))
    for seconds in (0.03, 0.01):
        with stopwatch.running():
            time.sleep(seconds)
        time.sleep(0.02)
        assert seconds <= stopwatch.seconds
    assert stopwatch.seconds < 0.03


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_stopwatch_measures_what_the_gpu_does_without_waiting_for_it() -> None:
    device = torch.device("cuda")
    stopwatch = Stopwatch(device)
    matrix = torch.randn(4096, 4096, device=device)
    matrix @ matrix  # the first one starts cuBLAS
    torch.cuda.synchronize()
    before, within = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    before.record()
    for _ in range(50):
        matrix @ matrix
    within.record()
    begin = time.perf_counter()
    with stopwatch.running():
        matrix @ matrix
    handed_over = time.perf_counter() - begin
    whole = before.elapsed_time(within) / 1000 if stopwatch.seconds else 0.0
    assert handed_over < whole / 2, "nothing has waited for the GPU"
    assert stopwatch.seconds < whole / 10, "what was waiting before it does not count"
