"""Whom a request was meant for: the names this service answers to, and the pages that may change something.

There is no log-in, so loopback is the fence, and a browser is the gate in it. A foreign page can point a name of its own
at 127.0.0.1 (DNS rebinding) and then reads our answers as its own: the Host header tells. It can also send a request
whose answer it may not read but which has done its work by then: the Origin header tells.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Collection, Mapping
from urllib.parse import urlsplit

from serve.problems import refused

ANY = "*"
_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


def check_sender(method: str, headers: Mapping[bytes, bytes], allowed: Collection[str]) -> None:
    """Check the Host of every request, and the Origin of one that may change something.

    Args:
        method: HTTP method in capitals.
        headers: header names in small letters.
        allowed: host names without ports; ``*`` among them allows every name.

    Raises:
        ProblemError: 421 for a name that is not ours, 403 for a page that is not ours.
    """
    authority = headers.get(b"host", b"").decode("latin-1").lower()
    name = host_name(authority)
    if ANY not in allowed and (not name or name not in {host_name(entry) for entry in allowed}):
        raise refused(
            "unknown-host",
            f"This service does not answer to the host name {name[:100]!r}.",
            "Use the address it was started with, or add the name to `allowed_hosts` in the service's arguments.",
            421,
        )
    origin = headers.get(b"origin")
    if method in _SAFE_METHODS or origin is None:
        return
    try:
        sender = urlsplit(origin.decode("latin-1").lower()).netloc
    except ValueError:  # brackets that hold no IPv6 address
        sender = ""
    if sender != authority:
        raise refused(
            "foreign-origin",
            f"A page of {sender[:100] or 'unknown origin'!r} may not change anything here.",
            "Use the chat page of this service. A gateway in front of it must pass the Host header on.",
            403,
        )


def host_name(authority: str) -> str:
    """The name or address in ``name``, ``name:port``, ``[address]:port`` or a bare IPv6 address, in small letters."""
    authority = authority.strip().lower()
    if authority.startswith("["):
        return authority[1:].partition("]")[0]
    name, _, rest = authority.partition(":")
    return authority if ":" in rest else name


def names_of(host: str) -> tuple[str, ...]:
    """What people will call a service that listens on ``host``: for "all addresses" this machine's name and addresses."""
    try:
        everywhere = ipaddress.ip_address(host).is_unspecified
    except ValueError:
        everywhere = False
    if not everywhere:
        return (host,)
    name = socket.gethostname()
    try:
        found = {str(info[4][0]) for info in socket.getaddrinfo(name, None)}
    except OSError:  # a machine whose own name does not resolve
        found = set()
    return (name, *sorted(found))
