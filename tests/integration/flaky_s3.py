"""A door in front of an S3 server that answers 500 when told to: before a request reaches the store, or after it was carried out."""

from __future__ import annotations

import contextlib
import http.client
import threading
import urllib.parse
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal

Fault = Literal["before", "after", ""]
_ERROR = b"<?xml version='1.0'?><Error><Code>InternalError</Code><Message>made up by the test</Message></Error>"


class FlakyS3(ThreadingHTTPServer):
    """Passes requests on; ``fault`` says of each, by method and path, whether and when it fails."""

    daemon_threads = True

    def __init__(self, target: str) -> None:
        super().__init__(("127.0.0.1", 0), _Door)
        self.target = urllib.parse.urlsplit(target).netloc
        self.fault: Callable[[str, str], Fault] = lambda method, path: ""
        self.num_failed = 0

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Door(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FlakyS3

    def handle_one_request(self) -> None:
        with contextlib.suppress(ConnectionError):
            super().handle_one_request()

    def _pass_on(self) -> None:
        body = self._body()
        fault = self.server.fault(self.command, self.path)
        answer = None
        if fault != "before":
            connection = http.client.HTTPConnection(self.server.target, timeout=60)
            headers = {name: value for name, value in self.headers.items() if name.lower() != "transfer-encoding"}
            connection.request(self.command, self.path, body, headers)  # the host stays the door's: it is signed
            reply = connection.getresponse()
            answer = (reply.status, reply.getheaders(), reply.read())
            connection.close()
        if fault or answer is None:
            self.server.num_failed += 1
            answer = (500, [("Content-Type", "application/xml")], _ERROR)
        self.send_response_only(answer[0])
        length = str(len(answer[2]))
        for name, value in answer[1]:
            if name.lower() == "content-length":
                length = value
            elif name.lower() not in ("transfer-encoding", "connection"):
                self.send_header(name, value)
        self.send_header("Content-Length", length)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer[2])

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _pass_on

    def log_message(self, *_: object) -> None:
        pass


@contextlib.contextmanager
def flaky_s3(target: str) -> Iterator[FlakyS3]:
    """Run the door in front of the server at an endpoint."""
    with FlakyS3(target) as door:
        thread = threading.Thread(target=door.serve_forever, daemon=True)
        thread.start()
        try:
            yield door
        finally:
            door.shutdown()
            thread.join()
