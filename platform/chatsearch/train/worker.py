"""The door through which Ray Train enters a worker. Light, so that the driver does not load what only workers need."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from chatsearch.errors import ChatSearchError, ClusterError, StorageError, UnreachableStoreError
from chatsearch.train.config import TrainConfig
from chatsearch.train.progress import Sink

_RETRIED = (StorageError, ClusterError)
"""Errors of ours that may be gone when the workers are started again; no restart helps against the others."""


@dataclass(frozen=True)
class WorkerJob:
    """What the driver tells its workers."""

    config: TrainConfig
    run: str
    """Fingerprint of configuration and inputs."""
    checkpoints: str
    """URI of the folder of this run's checkpoints."""
    sink: Sink


def train_worker(settings: dict[str, WorkerJob]) -> dict[str, Any]:
    """Run the loop. Returns counts and facts of the bundle on rank 0, or the ``error`` that an earlier attempt gave up with.

    An error of ours fails this attempt; Ray then starts the workers again, and these end here, before anything heavy is
    loaded.
    """
    job = settings["job"]
    hopeless = job.sink.given_up()
    if hopeless is not None:
        return {"error": hopeless}
    from chatsearch.train.loop import run_worker

    try:
        return run_worker(job)
    except UnreachableStoreError as error:  # it has been waited for already
        job.sink.give_up(error)
        raise
    except _RETRIED:
        raise
    except ChatSearchError as error:
        job.sink.give_up(error)
        raise
