"""Ray's own errors, as callers of the service are told of them."""

from __future__ import annotations

import numpy as np
import pytest
from chatsearch.errors import BadImageError, ClusterError, OverloadedError
from ray.exceptions import NodeDiedError, ObjectLostError, RayActorError, RayTaskError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError

from serve.calls import named_errors
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
    fan_out = ShardFanOut([Shard(error)], index="index")  # type: ignore[list-item]
    with pytest.raises(OverloadedError):
        fan_out.search(np.zeros(4, np.float32), 3, ())
