"""The HTTP application, built from its parts. Knows no Ray: a test runs it over an engine in the same process."""

from __future__ import annotations

import logging
import math
from collections.abc import Collection

from chatsearch import __version__
from chatsearch.errors import ChatSearchError
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from serve.backend import Backend
from serve.gateway import Gateway
from serve.metrics import ServiceMetrics
from serve.problems import MEDIA_TYPE, Problem, ProblemError, document, problem, problem_of
from serve.routes import chat, conversations, galleries, operations, page
from serve.service import Service
from serve.settings import Limits, PageSettings
from serve.store import ConversationStore

logger = logging.getLogger("chatsearch.serve")


def build_http_app(
    backend: Backend,
    store: ConversationStore,
    limits: Limits,
    *,
    allowed_hosts: Collection[str],
    turn_timeout_s: float,
    retry_after_s: float,
    page_settings: PageSettings,
) -> FastAPI:
    """The whole HTTP surface over a backend and a store."""
    metrics = ServiceMetrics()
    app = FastAPI(
        title="chatsearch",
        version=__version__,
        description="Conversational image retrieval. Every error is a problem document (RFC 9457).",
        docs_url=None,
        redoc_url=None,
        responses={"default": {"model": Problem, "content": {MEDIA_TYPE: {}}, "description": "A problem document."}},
    )
    app.state.service = Service(backend, store, limits, metrics, turn_timeout_s, page_settings)
    for router in (chat.router, conversations.router, galleries.router, operations.router, page.build_router()):
        app.include_router(router)

    def answer(request: Request, found: Problem) -> JSONResponse:
        headers = {"retry-after": str(math.ceil(retry_after_s))} if found.status in (429, 503) else {}
        content = document(found, request.state.trace_id)
        return JSONResponse(content, status_code=found.status, headers=headers, media_type=MEDIA_TYPE)

    @app.exception_handler(ProblemError)
    async def _problem(request: Request, error: ProblemError) -> JSONResponse:
        return answer(request, error.problem)

    @app.exception_handler(ChatSearchError)
    async def _named(request: Request, error: ChatSearchError) -> JSONResponse:
        found = problem_of(error)
        if found.status >= 500:
            logger.error("request %s: %s: %s", request.state.trace_id, type(error).__name__, error)
        return answer(request, found)

    @app.exception_handler(RequestValidationError)
    async def _invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        # The input is not echoed: it may be a picture of many megabytes.
        wrong = [f"{'.'.join(str(part) for part in e['loc'])}: {e['msg']}" for e in error.errors()[:5]]
        return answer(
            request, problem(422, "invalid-request", "; ".join(wrong)[:1000], "See /docs for what is accepted.")
        )

    @app.exception_handler(HTTPException)
    async def _http(request: Request, error: HTTPException) -> JSONResponse:
        slug = {404: "not-found", 405: "method-not-allowed"}.get(error.status_code, "http-error")
        action = "See /docs for the paths and methods that exist."
        return answer(
            request,
            problem(error.status_code, slug, f"{request.method} {request.url.path[:200]}: {error.detail}", action),
        )

    app.add_middleware(Gateway, limits=limits, allowed_hosts=allowed_hosts, metrics=metrics)
    return app
