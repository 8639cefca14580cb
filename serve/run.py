"""Serving on this machine: check everything, start, say where, wait for Ctrl-C."""

from __future__ import annotations

import contextlib
import errno
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from chatsearch.errors import ClusterError, ConfigError
from chatsearch.session import ray_session

from serve.app import build_app, check_pair
from serve.hosts import names_of
from serve.settings import ServeArgs

if TYPE_CHECKING:
    from ray.serve.schema import ServeStatus

LOOPBACK = "127.0.0.1"
_APPLICATION = "chatsearch"


@contextlib.contextmanager
def serving(args: ServeArgs, host: str = LOOPBACK, port: int = 8000) -> Iterator[str]:
    """The application for the duration of the block; yields its address.

    Args:
        args: what to serve.
        host: address to listen on; anything but loopback is reachable by others, and there is no log-in.
        port: TCP port.

    Raises:
        ArtefactError: model and index are not there or do not belong together; nothing was started.
        ConfigError: the port is busy; nothing was started.
        ClusterError: Serve runs on this cluster already, or a replica did not start; its reason is in the message.
    """
    check_pair(args)
    check_port(host, port)
    with ray_session():
        from ray import serve

        _check_free(serve.status())
        args = args.replace(allowed_hosts=(*args.allowed_hosts, *names_of(host)))
        serve.start(proxy_location="HeadOnly", http_options={"host": host, "port": port})
        try:
            try:
                serve.run(build_app(args), name=_APPLICATION, route_prefix="/")
            except RuntimeError as error:
                raise ClusterError(f"The service did not start: {' '.join(str(error).split())[:1500]}") from error
            yield f"http://{host}:{port}"
        finally:
            if set(serve.status().applications) - {_APPLICATION}:  # somebody else's came while ours ran
                serve.delete(_APPLICATION)
            else:
                serve.shutdown()


def serve_forever(
    args: ServeArgs, host: str = LOOPBACK, port: int = 8000, *, say: Callable[[str], object] = print
) -> None:
    """Serve until Ctrl-C or SIGTERM; errors as :func:`serving`. Runs in the main thread."""
    with serving(args, host, port) as address:
        stop = threading.Event()
        # What `kill`, systemd and containers send; Ray's own handler would end the process with a stack trace.
        before = signal.signal(signal.SIGTERM, lambda *_: stop.set())
        try:
            say(f"Chat page: {address}    API: {address}/docs    Stop with Ctrl-C.")
            with contextlib.suppress(KeyboardInterrupt):
                stop.wait()
        finally:
            signal.signal(signal.SIGTERM, before or signal.SIG_DFL)
        say("Stopping.")


def _check_free(status: ServeStatus) -> None:
    """Refuse to start on a cluster that serves already: address and port of its proxies are set for good."""
    if status.proxies or status.applications:
        names = ", ".join(sorted(status.applications)) or "no application yet"
        raise ClusterError(
            f"Ray Serve runs on this cluster already ({names}), with an address of its own. Add the application to it with "
            "`serve deploy` and a file like serve/config/cluster.yaml, or stop Serve first (`serve shutdown`)."
        )


def check_port(host: str, port: int) -> None:
    """Check that the port can be listened on.

    Raises:
        ConfigError: something else listens there, or it may not be opened.
    """
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            reason = {errno.EADDRINUSE: "another program listens there", errno.EACCES: "it may not be opened"}
            raise ConfigError(
                f"Cannot listen on {host}:{port}: {reason.get(error.errno or 0, error.strerror)}. Stop the other program "
                f"(`ss -ltnp 'sport = :{port}'` names it), or choose another port (--set port=..., make serve PORT=...)."
            ) from error
