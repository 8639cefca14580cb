"""Conversations that the service keeps: create, say, pick, undo, export, delete.

A turn is all or nothing: it is saved when its answer is complete, and a request that fails or is broken off leaves
the conversation as it was.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Annotated, Any

from chatsearch.converse.config import AnswerOptions
from chatsearch.converse.dialogue import Dialogue, Pick
from chatsearch.converse.events import Candidates, Done, Event, TextDelta
from chatsearch.converse.transcript import to_json
from chatsearch.errors import MissingInputError
from fastapi import APIRouter, Path, Response
from fastapi.concurrency import run_in_threadpool

from serve.media import media_type
from serve.requests import answer_options, check_turn, read_content
from serve.schema import ConversationExport, ConversationView, PickRequest, TurnRequest
from serve.service import Service, ServiceDep, TraceId
from serve.store import Conversation, message_images
from serve.streaming import Render, sse, stream_answer, whole_answer
from serve.views import retrieval_view, turn_views

router = APIRouter(prefix="/v1/conversations", tags=["conversations"])
ConversationId = Annotated[str, Path(max_length=64, description="As given when the conversation was created.")]
_STREAMED = (
    "Answers as server-sent events with `stream`: any number of `text`, then at most one `candidates`, then `done` \
with the conversation as it stands, or `problem`."
)


@router.post("", status_code=201)
async def create(response: Response, service: ServiceDep, trace_id: TraceId) -> ConversationView:
    """Begin a conversation. Its id is the only key to it: whoever has it can read, change and delete the conversation."""
    made = await run_in_threadpool(service.store.create)
    response.headers["location"] = f"/v1/conversations/{made.conversation_id}"
    return _view(service, made, trace_id)


@router.get("/{conversation_id}")
async def show(conversation_id: ConversationId, service: ServiceDep, trace_id: TraceId) -> ConversationView:
    """The conversation as it stands."""
    return _view(service, await run_in_threadpool(service.store.load, conversation_id), trace_id)


@router.post("/{conversation_id}/turns", response_model=ConversationView, description=_STREAMED)
async def say(conversation_id: ConversationId, request: TurnRequest, service: ServiceDep, trace_id: TraceId) -> Any:
    """Say something. A retrieval that nobody picked from is settled by its top candidate, flagged `auto_selected`."""
    before = await run_in_threadpool(service.store.load, conversation_id)
    options = answer_options(request, service.limits)
    check_turn(before.dialogue, request.content, service.limits)
    said = await run_in_threadpool(read_content, request.content)
    dialogue = before.dialogue.say(*said.pieces)
    return await _answer(service, before, dialogue, options, said.uploads, stream=request.stream, trace_id=trace_id)


@router.post("/{conversation_id}/picks", response_model=ConversationView, description=_STREAMED)
async def pick(conversation_id: ConversationId, request: PickRequest, service: ServiceDep, trace_id: TraceId) -> Any:
    """Choose a candidate of the last answer; what followed it is rewound, and the model goes on from there."""
    before = await run_in_threadpool(service.store.load, conversation_id)
    options = answer_options(request, service.limits)
    dialogue = before.dialogue.pick(request.item_id, request.retrieval)
    action = dialogue.steps[-1].action
    assert isinstance(action, Pick)
    chosen = before.dialogue.turns()[-1].retrievals()[action.retrieval].candidate(request.item_id)
    service.metrics.picks.labels(str(chosen.rank) if chosen.rank <= 10 else "more").inc()
    return await _answer(service, before, dialogue, options, {}, stream=request.stream, trace_id=trace_id)


@router.post("/{conversation_id}/undo")
async def undo(conversation_id: ConversationId, service: ServiceDep, trace_id: TraceId) -> ConversationView:
    """Take back the last message or pick, with its answer."""
    before = await run_in_threadpool(service.store.load, conversation_id)
    after = await run_in_threadpool(service.store.save, before, before.dialogue.undo())
    return _view(service, after, trace_id)


@router.get("/{conversation_id}/export")
async def export(
    conversation_id: ConversationId, response: Response, service: ServiceDep, trace_id: TraceId
) -> ConversationExport:
    """Everything: messages, answers, candidate lists, picks (also those taken back by a later pick), decisions, pictures."""
    found = await run_in_threadpool(service.store.load, conversation_id)
    uploads = await run_in_threadpool(service.store.uploads, conversation_id)
    response.headers["content-disposition"] = 'attachment; filename="conversation.json"'
    return ConversationExport(
        id=found.conversation_id,
        created_at=found.created_at.isoformat(),
        updated_at=found.updated_at.isoformat(),
        transcript=to_json(found.dialogue),
        images={
            key: f"data:{media_type(data)};base64,{base64.b64encode(data).decode()}" for key, data in uploads.items()
        },
        **_names(service, trace_id),
    )


@router.delete("/{conversation_id}", status_code=204)
async def delete(conversation_id: ConversationId, service: ServiceDep) -> None:
    """Remove the conversation: history and uploaded pictures."""
    await run_in_threadpool(service.store.delete, conversation_id)


@router.get("/{conversation_id}/images/{content_hash}", response_class=Response)
async def image(
    conversation_id: ConversationId, content_hash: Annotated[str, Path(pattern="^[0-9a-f]{64}$")], service: ServiceDep
) -> Response:
    """A picture that a message of this conversation shows."""
    try:
        data = await run_in_threadpool(service.store.upload, conversation_id, content_hash)
    except MissingInputError:
        found = await run_in_threadpool(service.store.load, conversation_id)
        if content_hash not in message_images(found.dialogue):
            raise
        data = await service.backend.picture(content_hash)  # the message showed a picture of the gallery
    return Response(data, media_type=media_type(data))


async def _answer(
    service: Service,
    before: Conversation,
    dialogue: Dialogue,
    options: AnswerOptions,
    new_uploads: Mapping[str, bytes],
    *,
    stream: bool,
    trace_id: str,
) -> Any:
    """Answer, save, show; with ``stream`` while the answer is made."""
    uploads = {**await run_in_threadpool(service.store.uploads, before.conversation_id), **new_uploads}

    async def save(done: Done) -> ConversationView:
        after = await run_in_threadpool(service.store.save, before, done.dialogue, new_uploads)
        return _view(service, after, trace_id)

    if stream:
        return await stream_answer(service, dialogue, options, uploads, render=_events(save), trace_id=trace_id)
    return await save(await whole_answer(service, dialogue, options, uploads))


def _events(save: Any) -> Render:
    async def render(event: Event) -> list[bytes]:
        if isinstance(event, TextDelta):
            return [sse({"delta": event.text}, "text")]
        if isinstance(event, Candidates):
            return [sse(retrieval_view(event.retrieval).model_dump(), "candidates")]
        return [sse((await save(event)).model_dump(), "done")]

    return render


def _names(service: Service, trace_id: str) -> dict[str, str]:
    return {"model": service.backend.model, "index_version": service.backend.index, "trace_id": trace_id}


def _view(service: Service, found: Conversation, trace_id: str) -> ConversationView:
    return ConversationView(
        id=found.conversation_id,
        revision=found.revision,
        turns=turn_views(found.dialogue, found.conversation_id),
        can_undo=bool(found.dialogue.steps),
        **_names(service, trace_id),
    )
