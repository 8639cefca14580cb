"""The chat page at / and the API reference at /docs: static files, nothing from elsewhere."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

from fastapi import APIRouter, Response

_FOLDER = Path(__file__).resolve().parent.parent / "web"
_TYPES = {".html": "text/html; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".css": "text/css; charset=utf-8",
          ".svg": "image/svg+xml"}  # fmt: skip
_PATHS = {
    "/": "index.html",
    "/docs": "docs.html",
    "/static/app.js": "app.js",
    "/static/api.js": "api.js",
    "/static/docs.js": "docs.js",
    "/static/style.css": "style.css",
    "/static/icon.svg": "icon.svg",
}


def build_router() -> APIRouter:
    """Routes of the static files, which are read once."""
    router = APIRouter(include_in_schema=False)
    for path, name in _PATHS.items():
        router.add_api_route(path, _sender(name), methods=["GET"], response_class=Response)
    return router


def _sender(name: str) -> Callable[[], Awaitable[Response]]:
    data, media_type = (_FOLDER / name).read_bytes(), _TYPES[Path(name).suffix]

    async def send() -> Response:
        return Response(data, media_type=media_type)

    return send
