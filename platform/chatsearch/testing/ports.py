"""Free loopback ports for servers that tests start."""

from __future__ import annotations

import contextlib
import random
import socket

LOOPBACK = "127.0.0.1"
PORTS = range(20_000, 32_768)
"""Below the ports that Linux gives to outgoing connections (32768 and up) and above those of Ray's workers (10002 to
19999): a cluster that starts opens hundreds of both, and one of them could take a port that its own agent, which
starts seconds later, was to have."""


def free_ports(count: int) -> list[int]:
    """Distinct TCP ports that nothing listens on right now.

    All sockets are held until the last one is found, so that no port is handed out twice. Another
    process can still take one before the server binds it: callers retry.

    Raises:
        OSError: fewer than ``count`` ports of `PORTS` are free.
    """
    with contextlib.ExitStack() as held:
        ports: list[int] = []
        for port in random.SystemRandom().sample(PORTS, len(PORTS)):
            if len(ports) == count:
                return ports
            handle = held.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
            with contextlib.suppress(OSError):
                handle.bind((LOOPBACK, port))
                ports.append(port)
        raise OSError(f"Fewer than {count} of the ports {PORTS.start} to {PORTS.stop - 1} are free.")
