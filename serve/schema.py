"""The HTTP vocabulary: what requests and answers look like. Checks of meaning and limits are in ``requests.py``."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from chatsearch.converse.config import RetrieveMode
from pydantic import BaseModel, ConfigDict, Field

COVERAGE = (
    "Share of the gallery that was searched; below 1 a part of the index was down and better pictures may be missing."
)


class Request(BaseModel):
    """Base of request bodies: unknown fields are errors, so that a typo is never ignored."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class TextPart(Request):
    """A piece of text."""

    type: Literal["text"]
    text: str


class ImageUrl(Request):
    """Where a picture is."""

    url: str = Field(
        description="A data: URL (JPEG, PNG or WebP), or /v1/images/{content_hash} of a picture of this gallery. "
        "The service never fetches other URLs."
    )
    detail: Literal["auto", "low", "high"] = Field(
        default="auto",
        description="Accepted for compatibility; pictures are always read at the model's one resolution.",
    )


class ImagePart(Request):
    """A picture."""

    type: Literal["image_url"]
    image_url: ImageUrl


Part = Annotated[TextPart | ImagePart, Field(discriminator="type")]
Content = str | list[Part]


class ChatMessage(Request):
    """One message of a dialogue, as in OpenAI's API. There are no system prompts: the model was trained without."""

    role: Literal["user", "assistant"]
    content: Content


class RankingOptions(Request):
    """How a retrieval is ranked."""

    num_candidates: int = Field(default=10, ge=1, description="How many candidates to show, best first.")
    exclude_context_images: bool = Field(
        default=True, description="Leave the pictures of the dialogue out of the ranking."
    )


class AnswerRequest(RankingOptions):
    """How an answer is made."""

    stream: bool = Field(default=False, description="Answer as server-sent events.")
    retrieve: RetrieveMode = Field(
        default="auto",
        description="auto: the model decides whether to answer with pictures. always: it must. never: words only.",
    )
    temperature: float = Field(default=0.0, ge=0.0, le=5.0, description="0 is greedy.")
    seed: int = Field(default=0, ge=0, lt=2**63)
    max_tokens: int | None = Field(default=None, ge=1, description="Most new tokens; by default the service's limit.")


class ChatRequest(AnswerRequest):
    """Body of POST /v1/chat/completions."""

    messages: list[ChatMessage]
    model: str | None = Field(default=None, description="The fingerprint this request expects; others are refused.")


class SearchRequest(RankingOptions):
    """Body of POST /v1/search."""

    messages: list[ChatMessage]


class TurnRequest(AnswerRequest):
    """Body of POST /v1/conversations/{id}/turns."""

    content: Content


class PickRequest(AnswerRequest):
    """Body of POST /v1/conversations/{id}/picks."""

    item_id: str = Field(description="One of the candidates shown.")
    retrieval: int | None = Field(
        default=None, ge=0, description="Which retrieval of the last answer, from 0; by default the last."
    )


class HitView(BaseModel):
    """One candidate."""

    item_id: str
    score: float = Field(description="Cosine of query and picture: higher is better.")
    rank: int = Field(description="From 1.")
    content_hash: str
    image_url: str = Field(description="Where the picture is on this server.")
    metadata: dict[str, str]


class RetrievalView(BaseModel):
    """One [IMG] of the assistant."""

    candidates: list[HitView]
    forced: bool = Field(description="True where the request asked for pictures, false where the model decided.")
    picked: str | None = Field(default=None, description="item_id of the candidate that went into the history.")
    auto_selected: bool = Field(default=False, description="True where the top candidate was taken without a pick.")
    coverage: float = Field(default=1.0, description=COVERAGE)
    model: str
    index_version: str


class Answered(BaseModel):
    """What every answer names."""

    model: str = Field(description="Fingerprint of the model.")
    index_version: str = Field(description="Version of the gallery index.")
    trace_id: str


class SearchAnswer(Answered):
    """Answer of POST /v1/search."""

    hits: list[HitView]
    coverage: float = Field(default=1.0, description=COVERAGE)


class AnswerMessage(BaseModel):
    """The assistant's message; ``retrieval`` is our extension of OpenAI's."""

    role: Literal["assistant"] = "assistant"
    content: str
    retrieval: RetrievalView | None = None


class Choice(BaseModel):
    """The one choice of an answer."""

    index: Literal[0] = 0
    message: AnswerMessage
    finish_reason: Literal["stop", "length", "retrieval"] = Field(
        description="retrieval: the answer paused at [IMG]; send the picture chosen as the next assistant content."
    )


class Usage(BaseModel):
    """Positions read and made."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class ChatAnswer(Answered):
    """Answer of POST /v1/chat/completions without streaming."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    choices: list[Choice]
    usage: Usage


class PieceView(BaseModel):
    """A piece of a turn: exactly one field is set."""

    text: str | None = None
    image_url: str | None = None
    retrieval: RetrievalView | None = None


class TurnView(BaseModel):
    """One turn of a conversation."""

    role: Literal["user", "assistant"]
    pieces: list[PieceView]
    ended: Literal["stop", "length", "retrieval"] | None = None


class ConversationView(Answered):
    """A conversation as it stands."""

    id: str
    revision: int
    turns: list[TurnView]
    can_undo: bool


class ConversationExport(Answered):
    """A conversation with everything that led to it."""

    id: str
    created_at: str
    updated_at: str
    transcript: dict[str, Any] = Field(
        description="Every message, answer, candidate list, pick and decision, in order."
    )
    images: dict[str, str] = Field(description="Uploaded pictures as data: URLs, by content hash.")


class GalleryView(Answered):
    """A gallery that can be searched."""

    name: str
    num_items: int
    num_shards: int
    dimension: int
    kind: str
    encoder_fingerprint: str
    projection_fingerprint: str


class PageView(BaseModel):
    """How the chat page begins."""

    mode: RetrieveMode = Field(description="What it answers with until somebody chooses.")
    examples: list[str] = Field(description="Requests offered above an empty conversation.")


class GalleryList(Answered):
    """All galleries of this service."""

    galleries: list[GalleryView]
    page: PageView
