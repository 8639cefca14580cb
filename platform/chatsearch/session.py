"""The one place that starts Ray: attach to a cluster that is there, else a local one for this process.

A local session listens on loopback only and asks for a token, like every cluster this project starts.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import signal
import sys
import threading
from collections.abc import Iterator, MutableMapping
from pathlib import Path

from chatsearch.errors import ClusterError

NUM_LOGICAL_CPUS = 6
"""Least number of CPU slots of a local session. Slots are bookkeeping, not cores: two training workers and the
controller hold three of them, and the data tasks that feed the workers would wait for ever on a two-core machine."""
OBJECT_STORE_BYTES = 512 * 1024**2
"""Shared memory of a local session. Blocks past it spill to disk."""

_NOISE = "|".join(
    (
        # Ray Train's clean-up actor asks the State API every second, which a session without dashboard does not have.
        "Failed to query Ray Train Controller actor state",
        "Reporting training result",
        # Ray Data on its own workers and bars; our jobs show one progress line a step.
        "Actor with class name: 'MapWorker",
        "Progress bars disabled",
    )
)
"""Lines of workers that tell a user nothing; they stay in Ray's own log files."""


@contextlib.contextmanager
def ray_session() -> Iterator[None]:
    """Ray for the duration of the block; a session that is there already is used and left running.

    With ``RAY_ADDRESS`` set (every submitted job has it) the process attaches to that cluster.

    Raises:
        ClusterError: no cluster answers at ``RAY_ADDRESS``, the local one does not start, or Ray was imported too early to give the
            local one its token.
    """
    prepare_environment()
    # Our jobs show one progress line a step; Ray Data's account of each of its executions is in its log files.
    logging.getLogger("ray.data._internal.execution.streaming_executor").setLevel(logging.WARNING)
    logging.getLogger("ray.data._internal.progress").setLevel(logging.ERROR)
    import ray

    if ray.is_initialized():
        yield
        return
    address = os.environ.get("RAY_ADDRESS")
    with _sigterm_kept():
        try:
            if address:
                ray.init(address=address)
            else:
                ray.init(
                    # Not left out: Ray would then join whatever `ray start` has last begun on this machine, and refuse to.
                    address="local",
                    num_cpus=max(NUM_LOGICAL_CPUS, os.cpu_count() or 1),
                    include_dashboard=False,
                    object_store_memory=OBJECT_STORE_BYTES,
                    logging_level=logging.WARNING,
                    # Errors of workers are raised here; what else they print is in Ray's log folder.
                    log_to_driver=False,
                )
        except Exception as error:  # Ray raises a bare one where a node does not start in time
            reason = " ".join(str(error).split())[:300]
            if address:
                raise ClusterError(
                    f"Cannot attach to the cluster at RAY_ADDRESS={address}: {reason}. Check the address and RAY_AUTH_MODE/RAY_AUTH_TOKEN, "
                    "or unset RAY_ADDRESS to run on this machine."
                ) from error
            raise ClusterError(
                f"Cannot start a local Ray session: {reason}. The machine may be busy with other work: run the same command again when there is "
                "less. What Ray has to say is in its log folder, by default /tmp/ray/session_latest/logs."
            ) from error
    try:
        yield
    finally:
        try:
            _end_executions()
        finally:
            ray.shutdown()


@contextlib.contextmanager
def _sigterm_kept() -> Iterator[None]:
    """Whoever handles SIGTERM still does so when Ray has started.

    Ray puts two handlers in place: one leaves by way of Python, the one below it prints a stack trace and aborts. A third ends the
    process while nodes start.
    """
    before = signal.getsignal(signal.SIGTERM)
    if not callable(before) or threading.current_thread() is not threading.main_thread():
        yield
        return
    try:
        yield
    except SystemExit:
        before(signal.SIGTERM, None)
        raise
    finally:
        signal.signal(signal.SIGTERM, before)


def _end_executions() -> None:
    """End what Ray Data still runs for a dataset that an exception has left half read.

    Its thread would go on, find Ray gone, and end the process from below with exit code 1.
    """
    module = sys.modules.get("ray.data._internal.execution.streaming_executor")
    if module is None:
        return
    for thread in threading.enumerate():
        if isinstance(thread, module.StreamingExecutor):
            with contextlib.suppress(Exception):  # the block's own exception is the one to be heard
                thread.shutdown(force=True)
            thread.join(10.0)


def prepare_environment() -> None:
    """Set what Ray and its workers read from the environment; values that are set already win.

    Call it before Ray is first imported: the authentication mode is read at import.

    Raises:
        ClusterError: Ray is imported, and would not take the token of a local session.
    """
    env = os.environ
    env.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    env.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", _NOISE)
    env.setdefault("TOKENIZERS_PARALLELISM", "false")
    # One worker's thread pool a core each would fight over the cores of a laptop.
    env.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // 2)))
    if not env.get("RAY_ADDRESS"):
        # Off the cloud a look-up of its metadata is a wait for nothing; on a cluster it is where the credentials come from.
        env.setdefault("AWS_EC2_METADATA_DISABLED", "true")
        # Ray listens on all interfaces unless its node's address is the loopback one, and this switch, whatever its
        # name says, is what lets a node have that address on Linux too.
        env["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
        if not env.get("RAY_AUTH_MODE"):
            _use_tokens(env)
        if env.get("RAY_AUTH_MODE") == "token" and not (env.get("RAY_AUTH_TOKEN") or env.get("RAY_AUTH_TOKEN_PATH")):
            # A token of this session alone: otherwise Ray leaves one in the home folder for good.
            env["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    # Threads that spin long while they wait starve those they wait for when cores are few; those that sleep at once wake late.
    env.setdefault("GOMP_SPINCOUNT", "1000")
    # Workers inherit it: they find chatsearch, jobs and serve whether or not the package is installed.
    source = Path(__file__).resolve().parent.parent
    paths = [str(source), str(source.parent), *filter(None, env.get("PYTHONPATH", "").split(os.pathsep))]
    env["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(paths))


def _use_tokens(env: MutableMapping[str, str]) -> None:
    ray = sys.modules.get("ray")
    if ray is not None and ray.is_initialized():
        return  # whoever started it has decided
    if ray is not None:
        raise ClusterError(
            "Ray was imported before its settings were made, so it would not take the token of a local session. Call "
            "chatsearch.session.prepare_environment() first, or enter ray_session() before ray and whatever imports it."
        )
    env["RAY_AUTH_MODE"] = "token"
