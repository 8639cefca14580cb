"""Calls to other deployments: Ray's wrappers off, and what only needs another try told from faults."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from chatsearch.errors import ChatSearchError, ClusterError, OverloadedError


@contextlib.contextmanager
def named_errors() -> Iterator[None]:
    """What a deployment raised on purpose comes out as it was raised.

    Raises:
        OverloadedError: queues are full, or a replica or its node went away: the same request may be sent again.
        ClusterError: the replica failed in a way that has no name.
    """
    from ray import exceptions as ray_errors
    from ray.serve import exceptions as serve_errors

    gone = (
        ray_errors.RayActorError,
        ray_errors.NodeDiedError,
        ray_errors.WorkerCrashedError,
        ray_errors.ObjectLostError,
        serve_errors.DeploymentUnavailableError,
        serve_errors.ReplicaUnavailableError,
    )
    try:
        yield
    except serve_errors.BackPressureError as error:
        raise OverloadedError("All replicas are busy and the queue is full; nothing was started.") from error
    except gone as error:
        raise OverloadedError("A replica went away while it worked on this request; nothing was saved.") from error
    except ray_errors.RayTaskError as error:
        if isinstance(error.cause, ChatSearchError):
            raise error.cause from None
        raise ClusterError(f"A replica failed: {type(error.cause).__name__}.") from error
