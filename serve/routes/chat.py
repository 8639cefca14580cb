"""POST /v1/chat/completions and POST /v1/search: stateless, the whole dialogue comes with the request."""

from __future__ import annotations

import time
import uuid
from typing import Any

from chatsearch.converse.dialogue import Retrieval
from chatsearch.converse.events import Candidates, Done, Event, TextDelta
from fastapi import APIRouter, Response
from fastapi.concurrency import run_in_threadpool

from serve.problems import refused
from serve.requests import answer_options, ranking_options, read_messages
from serve.schema import AnswerMessage, ChatAnswer, ChatRequest, Choice, SearchAnswer, SearchRequest, Usage
from serve.service import Service, ServiceDep, TraceId
from serve.streaming import Render, sse, stream_answer, whole_answer
from serve.views import hit_view, retrieval_view

router = APIRouter(prefix="/v1", tags=["stateless"])


@router.post("/chat/completions", response_model=ChatAnswer)
async def chat_completions(request: ChatRequest, service: ServiceDep, trace_id: TraceId) -> Any:
    """Answer a dialogue in words, with candidate pictures, or both.

    The messages are OpenAI's. Extensions: `retrieve`, `num_candidates`, `exclude_context_images` in the request;
    `message.retrieval` (while streaming `delta.retrieval`) in the answer, with `finish_reason` "retrieval". To go on
    after a choice, send the chosen picture as part of the assistant message: `/v1/images/{content_hash}`.
    """
    if request.model not in (None, service.backend.model):
        raise refused(
            "other-model",
            f"This service runs model {service.backend.model}, not {request.model!r}.",
            "Leave `model` out, or ask the service that runs the other model.",
        )
    options = answer_options(request, service.limits)
    dialogue, uploads = await run_in_threadpool(read_messages, request.messages, service.limits)
    answer_id, created = f"chatcmpl-{uuid.uuid4().hex}", int(time.time())
    if request.stream:
        render = _chunks(service, answer_id, created, trace_id)
        return await stream_answer(service, dialogue, options, uploads, render=render, trace_id=trace_id)
    done = await whole_answer(service, dialogue, options, uploads)
    produced = done.dialogue.steps[-1].produced
    shown = next((retrieval_view(piece) for piece in produced if isinstance(piece, Retrieval)), None)
    message = AnswerMessage(content="".join(p for p in produced if isinstance(p, str)), retrieval=shown)
    return ChatAnswer(
        id=answer_id,
        created=created,
        model=done.model,
        index_version=shown.index_version if shown else service.backend.index,
        trace_id=trace_id,
        choices=[Choice(message=message, finish_reason=done.reason)],
        usage=_usage(done),
    )


@router.post("/search")
async def search(request: SearchRequest, response: Response, service: ServiceDep, trace_id: TraceId) -> SearchAnswer:
    """Rank the gallery for a dialogue, whatever the model would have answered. Nothing is kept."""
    options = ranking_options(request, service.limits)
    dialogue, uploads = await run_in_threadpool(read_messages, request.messages, service.limits)
    found = await service.search(dialogue.segments(), options, uploads)
    hits = [hit_view(hit) for hit in found.candidates]
    return SearchAnswer(
        hits=hits, coverage=found.coverage, model=found.model, index_version=found.index, trace_id=trace_id
    )


def _usage(done: Done) -> Usage:
    total = done.num_prompt_tokens + done.num_new_tokens
    return Usage(prompt_tokens=done.num_prompt_tokens, completion_tokens=done.num_new_tokens, total_tokens=total)


def _chunks(service: Service, answer_id: str, created: int, trace_id: str) -> Render:
    head = {
        "id": answer_id,
        "object": "chat.completion.chunk",
        "created": created,
        "model": service.backend.model,
        "index_version": service.backend.index,
        "trace_id": trace_id,
    }

    async def render(event: Event) -> list[bytes]:
        if isinstance(event, Done):
            closing = {"index": 0, "delta": {}, "finish_reason": event.reason}
            last = head | {"model": event.model, "choices": [closing], "usage": _usage(event).model_dump()}
            return [sse(last), sse("[DONE]")]
        delta: dict[str, Any] = {"role": "assistant"}
        if isinstance(event, TextDelta):
            delta["content"] = event.text
        elif isinstance(event, Candidates):
            delta["retrieval"] = retrieval_view(event.retrieval).model_dump()
        return [sse(head | {"choices": [{"index": 0, "delta": delta, "finish_reason": None}]})]

    return render
