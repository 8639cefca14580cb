"""From dialogues to what HTTP answers show."""

from __future__ import annotations

from chatsearch.converse.dialogue import Dialogue, Piece, Retrieval
from chatsearch.types import Hit

from serve.requests import GALLERY_IMAGES
from serve.schema import HitView, PieceView, RetrievalView, TurnView


def hit_view(hit: Hit) -> HitView:
    """One candidate."""
    return HitView(
        item_id=hit.item_id,
        score=hit.score,
        rank=hit.rank,
        content_hash=hit.content_hash,
        image_url=GALLERY_IMAGES + hit.content_hash,
        metadata=dict(hit.metadata),
    )


def retrieval_view(retrieval: Retrieval) -> RetrievalView:
    """One [IMG] with its candidates."""
    return RetrievalView(
        candidates=[hit_view(hit) for hit in retrieval.candidates],
        forced=retrieval.forced,
        picked=None if retrieval.picked is None else retrieval.picked.item_id,
        auto_selected=retrieval.auto_selected,
        coverage=retrieval.coverage,
        model=retrieval.model,
        index_version=retrieval.index,
    )


def turn_views(dialogue: Dialogue, conversation_id: str) -> list[TurnView]:
    """The turns of a conversation; pictures are linked, not included."""

    def piece_view(piece: Piece) -> PieceView:
        if isinstance(piece, str):
            return PieceView(text=piece)
        if isinstance(piece, Retrieval):
            return PieceView(retrieval=retrieval_view(piece))
        return PieceView(image_url=f"/v1/conversations/{conversation_id}/images/{piece.content_hash}")

    return [
        TurnView(role=turn.role.value, pieces=[piece_view(p) for p in turn.pieces], ended=turn.ended)
        for turn in dialogue.turns()
    ]
