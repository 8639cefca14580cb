"""Ray's own errors, as callers of the service are told of them."""

from __future__ import annotations

import numpy as np
import pytest
from chatsearch.errors import BadImageError, ClusterError, FingerprintMismatchError, OverloadedError
from chatsearch.index.merge import ShardHits
from chatsearch.types import Hit
from ray.exceptions import NodeDiedError, ObjectLostError, RayActorError, RayTaskError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError

from serve.calls import named_errors
from serve.settings import CoverageSettings
from serve.shard_deployment import ShardFanOut

BUSY_OR_GONE = [
    BackPressureError(num_queued_requests=1, max_queued_requests=1),
    RayActorError(),
    NodeDiedError("node"),
    ObjectLostError("00" * 28, None, "stack"),
    DeploymentUnavailableError("deployment"),
]


@pytest.mark.parametrize("error", BUSY_OR_GONE, ids=lambda error: type(error).__name__)
def test_what_another_try_may_mend_is_overload(error: Exception) -> None:
    with pytest.raises(OverloadedError), named_errors():
        raise error


def test_errors_of_ours_come_out_and_others_are_faults_by_name() -> None:
    for cause, expected in ((BadImageError("bad"), BadImageError), (KeyError("secret"), ClusterError)):
        with pytest.raises(expected) as raised, named_errors():
            raise RayTaskError("respond", "trace with secrets", cause).as_instanceof_cause()
        assert "secret" not in str(raised.value)


class Shard:
    """A handle whose every search ends in the same way."""

    def __init__(self, error: Exception) -> None:
        self._error = error
        self.search = self

    def remote(self, *_: object) -> Shard:
        return self

    def result(self, timeout_s: float) -> None:
        raise self._error


@pytest.mark.parametrize("error", [*BUSY_OR_GONE, TimeoutError()], ids=lambda error: type(error).__name__)
def test_a_busy_or_lost_shard_is_overload_and_no_fault(error: Exception) -> None:
    fan_out = fan_out_over(Shard(error), min_coverage=1.0)
    with pytest.raises(OverloadedError):
        fan_out.search(np.zeros(4, np.float32), 3, ())


def fan_out_over(*shards: object, min_coverage: float) -> ShardFanOut:
    """Over shards of 30 and of 10 items."""
    settings = CoverageSettings(min_coverage=min_coverage, timeout_s=1.0)
    return ShardFanOut(shards, index="index", items_per_shard=(30, 10)[: len(shards)], settings=settings)  # type: ignore[arg-type]


def test_without_a_shard_an_answer_is_marked_or_refused_as_settings_say() -> None:
    hits = (Hit("a", 0.9, 1, "h"), Hit("b", 0.5, 2, "h"))
    sound, lost = Answering(ShardHits("index", 0, (hits,))), Shard(RayActorError())
    query_d = np.zeros(4, np.float32)
    whole = fan_out_over(sound, Answering(ShardHits("index", 1, ((),))), min_coverage=1.0).search(query_d, 2, ())
    assert (whole.hits, whole.coverage) == (list(hits), 1.0)
    partial = fan_out_over(sound, lost, min_coverage=0.7).search(query_d, 2, ())
    assert (partial.hits, partial.coverage) == (list(hits), 0.75)
    for min_coverage in (0.8, 1.0):
        with pytest.raises(OverloadedError, match=r"1 of 2 shards did not answer \(shard 1: .*so 75.0% of the gallery"):
            fan_out_over(sound, lost, min_coverage=min_coverage).search(query_d, 2, ())
    with pytest.raises(OverloadedError, match=r"2 of 2 shards did not answer .* 0\.0% of the gallery"):
        fan_out_over(lost, lost, min_coverage=0.01).search(query_d, 2, ())


def test_a_shard_of_another_index_is_refused_however_little_is_asked_for() -> None:
    other = Answering(ShardHits("other", 0, ((),)))
    with pytest.raises(FingerprintMismatchError, match="A shard serves index other; this model is paired with index"):
        fan_out_over(other, Shard(RayActorError()), min_coverage=0.1).search(np.zeros(4, np.float32), 2, ())


class Answering:
    """A handle that answers."""

    def __init__(self, answer: ShardHits) -> None:
        self._answer = answer
        self.search = self

    def remote(self, *_: object) -> Answering:
        return self

    def result(self, timeout_s: float) -> ShardHits:
        return self._answer
