"""GET /v1/galleries and GET /v1/images: what can be found, and the pictures themselves."""

from __future__ import annotations

import re
from dataclasses import asdict

from fastapi import APIRouter, Response

from serve.media import media_type
from serve.problems import refused
from serve.schema import GalleryList, GalleryView, PageView
from serve.service import Service, ServiceDep, TraceId

router = APIRouter(prefix="/v1", tags=["galleries"])
_HASH = re.compile(r"[0-9a-f]{64}")


@router.get("/galleries")
async def galleries(service: ServiceDep, trace_id: TraceId) -> GalleryList:
    """All galleries of this service."""
    return GalleryList(
        galleries=[_view(service, trace_id)],
        page=PageView(mode=service.page.mode, examples=list(service.page.examples)),
        model=service.backend.model,
        index_version=service.backend.index,
        trace_id=trace_id,
    )


@router.get("/galleries/{name}")
async def gallery(name: str, service: ServiceDep, trace_id: TraceId) -> GalleryView:
    """One gallery: its size and the fingerprints of what made it."""
    if name != service.backend.gallery.name:
        raise refused(
            "not-found",
            f"There is no gallery {name[:80]!r}; this service has {service.backend.gallery.name!r}.",
            "Ask GET /v1/galleries for the names.",
            404,
        )
    return _view(service, trace_id)


@router.get("/images/{name:path}", response_class=Response)
async def image(name: str, service: ServiceDep) -> Response:
    """A picture of the gallery, by content hash (answers may be cached for ever) or by item id."""
    if _HASH.fullmatch(name):
        data = await service.backend.picture(name)
        return Response(
            data, media_type=media_type(data), headers={"cache-control": "public, max-age=31536000, immutable"}
        )
    item = await service.backend.item(name)
    if item is None:
        raise refused(
            "not-found", f"The gallery has no item {name[:80]!r}.", "Take an item id from a list of hits.", 404
        )
    data = await service.backend.picture(item.content_hash)
    return Response(data, media_type=media_type(data))


def _view(service: Service, trace_id: str) -> GalleryView:
    backend = service.backend
    facts = asdict(backend.gallery)
    num_shards = len(facts.pop("items_per_shard"))
    return GalleryView(
        **facts, num_shards=num_shards, model=backend.model, index_version=backend.index, trace_id=trace_id
    )
