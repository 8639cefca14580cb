"""The outermost layer of the HTTP application: trace ids, who is meant, the body limit, security headers, last resort."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import time
import uuid
from collections.abc import Collection
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve.hosts import check_sender
from serve.metrics import ServiceMetrics
from serve.problems import MEDIA_TYPE, ProblemError, document, problem_of, refused, too_large
from serve.settings import Limits

logger = logging.getLogger("chatsearch.serve")

_TRACEPARENT = re.compile(rb"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")
_DEFAULT_HEADERS = {
    b"content-security-policy": b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
    b"connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    b"x-content-type-options": b"nosniff",
    b"referrer-policy": b"no-referrer",
    b"cross-origin-resource-policy": b"same-origin",
    b"cache-control": b"no-store",
}


class Gateway:
    """ASGI middleware around everything else."""

    def __init__(
        self, app: ASGIApp, *, limits: Limits, allowed_hosts: Collection[str], metrics: ServiceMetrics
    ) -> None:
        self._app = app
        self._limits = limits
        self._allowed_hosts = allowed_hosts
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        trace_id = _trace_id(scope)
        scope.setdefault("state", {})["trace_id"] = trace_id
        answer = _Answer(send, trace_id)
        started = time.perf_counter()
        self._metrics.in_flight.inc()
        try:
            check_sender(scope["method"], dict(scope["headers"]), self._allowed_hosts)
            body = await _read_body(scope, receive, self._limits)
            await self._app(scope, _replay(body, receive), answer)
        except Exception as error:
            if not isinstance(error, ProblemError):
                logger.exception("request %s failed", trace_id)
            if answer.status:  # the answer has begun: all that is left is to end it
                raise
            await _send_problem(answer, error, trace_id)
        finally:
            route = getattr(scope.get("route"), "path", "none")
            self._metrics.in_flight.dec()
            self._metrics.requests.labels(route, str(answer.status or 499)).inc()
            self._metrics.seconds.labels(route).observe(time.perf_counter() - started)


class _Answer:
    """A ``send`` that adds the headers that every answer carries and remembers the status."""

    def __init__(self, send: Send, trace_id: str) -> None:
        self._send = send
        self._trace_id = trace_id
        self.status = 0

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            given = {name.lower() for name, _ in message["headers"]}
            extra = {b"x-trace-id": self._trace_id.encode(), **_DEFAULT_HEADERS}
            message["headers"] = [*message["headers"], *((n, v) for n, v in extra.items() if n not in given)]
        await self._send(message)


def _trace_id(scope: Scope) -> str:
    """The trace id of a W3C traceparent header, or a new one."""
    given = _TRACEPARENT.fullmatch(dict(scope["headers"]).get(b"traceparent", b""))
    return given[1].decode() if given else uuid.uuid4().hex


async def _read_body(scope: Scope, receive: Receive, limits: Limits) -> bytes:
    """The whole body, refused as soon as it is known to be too long, or does not come."""
    try:
        async with asyncio.timeout(limits.max_body_s):
            return await _gather_body(scope, receive, limits.max_body_bytes)
    except TimeoutError as error:
        raise refused(
            "slow-body",
            f"The request body did not come in within {limits.max_body_s:g} seconds.",
            "Send it again, or send less.",
            408,
        ) from error


async def _gather_body(scope: Scope, receive: Receive, limit: int) -> bytes:
    declared = dict(scope["headers"]).get(b"content-length", b"0")
    # Of more digits than Python reads as a number the first ones say enough.
    if declared.isdigit() and (num_declared := int(declared.lstrip(b"0")[:20] or b"0")) > limit:
        raise too_large("Bytes in the request body", num_declared, limit, status=413)
    chunks: list[bytes] = []
    num_bytes = 0
    while True:
        message = await receive()
        if message["type"] != "http.request":
            break
        chunks.append(message.get("body", b""))
        num_bytes += len(chunks[-1])
        if num_bytes > limit:
            raise too_large("Bytes in the request body", num_bytes, limit, status=413)
        if not message.get("more_body", False):
            break
    return b"".join(chunks)


def _replay(body: bytes, receive: Receive) -> Receive:
    """A ``receive`` that gives the body first and then what still comes, such as a disconnect."""
    pending: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replayed() -> Message:
        return pending.pop() if pending else await receive()

    return replayed


async def _send_problem(send: Any, error: BaseException, trace_id: str) -> None:
    found = problem_of(error)
    headers = [(b"content-type", MEDIA_TYPE.encode())]
    await send({"type": "http.response.start", "status": found.status, "headers": headers})
    await send({"type": "http.response.body", "body": json.dumps(document(found, trace_id)).encode()})
