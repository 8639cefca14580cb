"""A real ``ray start --head`` on loopback with token authentication, for tests of the way into a cluster."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from chatsearch.errors import ClusterError
from chatsearch.testing.ports import LOOPBACK, free_ports

START_TIMEOUT_S = 90.0


@dataclass(frozen=True)
class RayHead:
    """A running head node.

    Attributes:
        dashboard: HTTP address of the dashboard and job server.
        address: ``host:port`` for ``ray.init``.
        token: what every port asks for.
    """

    dashboard: str
    address: str
    token: str

    @property
    def environment(self) -> dict[str, str]:
        """Variables a client needs."""
        return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": self.token}


@contextlib.contextmanager
def ray_head(*, num_cpus: int = 4, object_store_bytes: int = 150 * 1024**2) -> Iterator[RayHead]:
    """Start a head node, and on leaving stop exactly the processes that it started.

    Raises:
        ClusterError: it did not come up in time, or was dead before the block ended; the message ends with its output.
    """
    names = (
        "port",
        "node-manager-port",
        "object-manager-port",
        "runtime-env-agent-port",
        "dashboard-port",
        "dashboard-agent-listen-port",
        "dashboard-agent-grpc-port",
        "metrics-export-port",
        "ray-client-server-port",
    )
    ports = dict(zip(names, free_ports(len(names)), strict=True))
    head = RayHead(f"http://{LOOPBACK}:{ports['dashboard-port']}", f"{LOOPBACK}:{ports['port']}", secrets.token_hex(32))
    binaries = str(Path(sys.executable).parent)
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"} | {
        "PATH": f"{binaries}{os.pathsep}{os.environ.get('PATH', '')}",
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # see chatsearch.session: the node listens on loopback only
        "RAY_USAGE_STATS_ENABLED": "0",
        **head.environment,
    }
    # A short path: Ray puts Unix sockets below it, whose names end at 107 characters.
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:
        log = Path(folder) / "head.log"
        command = [
            str(Path(binaries) / "ray"),
            "start",
            "--head",
            "--block",
            f"--num-cpus={num_cpus}",
            f"--object-store-memory={object_store_bytes}",
            f"--temp-dir={folder}",
            f"--dashboard-host={LOOPBACK}",
            "--include-dashboard=true",
            *(f"--{name}={port}" for name, port in ports.items()),
        ]
        with log.open("wb") as sink:
            # A process group of its own: stopping the group stops this cluster and no other.
            process = subprocess.Popen(
                command, stdout=sink, stderr=subprocess.STDOUT, env=environment, start_new_session=True
            )
        try:
            _wait(head, process, log)
            yield head
            if process.poll() is not None:
                raise ClusterError(f"The Ray head at {head.dashboard} died while it was in use:\n{_last_words(log)}")
        finally:
            _stop(process)


def _wait(head: RayHead, process: subprocess.Popen[bytes], log: Path) -> None:
    request = urllib.request.Request(f"{head.dashboard}/api/jobs/", headers={"Authorization": f"Bearer {head.token}"})
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError, urllib.error.HTTPError), urllib.request.urlopen(request, timeout=5) as answer:
            if answer.status == 200:
                return
        time.sleep(0.5)
    raise ClusterError(
        f"The Ray head at {head.dashboard} did not come up within {START_TIMEOUT_S:.0f} s:\n{_last_words(log)}"
    )


def _last_words(log: Path) -> str:
    """The ends of what the head and its parts wrote."""
    logs = log.parent / "session_latest" / "logs"
    parts = (
        "raylet.out",
        "raylet.err",
        "gcs_server.out",
        "dashboard.log",
        "dashboard_agent.log",
        "runtime_env_agent.log",
    )
    found = [path for path in (log, *(logs / part for part in parts)) if path.is_file()]
    return "\n".join(f"== {path.name}\n{path.read_text(errors='replace')[-1500:]}" for path in found)


def _stop(process: subprocess.Popen[bytes]) -> None:
    group = process.pid  # start_new_session made it the leader
    for number, patience_s in ((signal.SIGTERM, 15.0), (signal.SIGKILL, 5.0)):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(group, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=patience_s)
