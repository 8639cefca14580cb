"""/healthz, /readyz and /metrics: for probes and monitoring."""

from __future__ import annotations

from fastapi import APIRouter, Response
from fastapi.concurrency import run_in_threadpool
from pydantic import BaseModel

from serve.service import ServiceDep, TraceId

router = APIRouter(tags=["operations"])


class Health(BaseModel):
    """The state of the service."""

    status: str
    model: str
    index_version: str
    trace_id: str


@router.get("/healthz")
async def healthz(service: ServiceDep, trace_id: TraceId) -> Health:
    """Whether this process is alive."""
    return Health(status="alive", model=service.backend.model, index_version=service.backend.index, trace_id=trace_id)


@router.get("/readyz")
async def readyz(service: ServiceDep, trace_id: TraceId) -> Health:
    """Whether a request would be answered now: model, every index shard and the database are asked."""
    await service.backend.check()
    await run_in_threadpool(service.store.ping)
    return Health(status="ready", model=service.backend.model, index_version=service.backend.index, trace_id=trace_id)


@router.get("/metrics", response_class=Response)
async def metrics(service: ServiceDep) -> Response:
    """Prometheus text of this replica."""
    return Response(service.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")
