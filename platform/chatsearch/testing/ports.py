"""Free loopback ports for servers that tests start."""

from __future__ import annotations

import contextlib
import socket

LOOPBACK = "127.0.0.1"


def free_ports(count: int) -> list[int]:
    """Distinct TCP ports that nothing listens on right now.

    All sockets are held until the last one is found, so that no port is handed out twice. Another
    process can still take one before the server binds it: callers retry.
    """
    with contextlib.ExitStack() as held:
        ports = []
        for _ in range(count):
            handle = held.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
            handle.bind((LOOPBACK, 0))
            ports.append(handle.getsockname()[1])
        return ports
