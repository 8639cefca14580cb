"""A dialogue as JSON and back: messages, answers, every candidate list, every pick, every decision.

Reading replays the steps through :class:`Dialogue`, so a transcript that was edited by hand into something
that could not have happened is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from chatsearch.converse.dialogue import Dialogue, EndReason, Message, Pick, Picture, Piece, Retrieval, Step
from chatsearch.errors import InputError
from chatsearch.types import Hit

VERSION = 1
_END_REASONS: tuple[EndReason, ...] = ("stop", "length", "retrieval")


def to_json(dialogue: Dialogue) -> dict[str, Any]:
    """Plain JSON values that :func:`from_json` reads back into an equal dialogue."""
    return {"version": VERSION, "steps": [_step_to_json(step) for step in dialogue.steps]}


def from_json(data: Mapping[str, Any]) -> Dialogue:
    """The dialogue of a transcript.

    Raises:
        InputError: another version, a missing field, or steps that cannot have happened.
    """
    try:
        if data["version"] != VERSION:
            raise InputError(f"This transcript has version {data['version']!r}; this program reads {VERSION}.")
        dialogue = Dialogue()
        for step in data["steps"]:
            dialogue = _replay(dialogue, step)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(
            f"This is not a transcript of a dialogue: {type(error).__name__} {error}. Use one that was exported here."
        ) from error
    return dialogue


def retrieval_to_json(retrieval: Retrieval) -> dict[str, Any]:
    """A retrieval with all its candidates."""
    return {
        "type": "retrieval",
        "forced": retrieval.forced,
        "model": retrieval.model,
        "index": retrieval.index,
        "coverage": retrieval.coverage,
        "candidates": [hit_to_json(hit) for hit in retrieval.candidates],
    }


def hit_to_json(hit: Hit) -> dict[str, Any]:
    """One candidate: item id, score (a cosine), rank from 1, content hash and metadata."""
    return {
        "item_id": hit.item_id,
        "score": hit.score,
        "rank": hit.rank,
        "content_hash": hit.content_hash,
        "metadata": dict(hit.metadata),
    }


def _step_to_json(step: Step) -> dict[str, Any]:
    if isinstance(step.action, Message):
        action: dict[str, Any] = {"type": "message", "pieces": [_piece_to_json(p) for p in step.action.pieces]}
    else:
        action = {"type": "pick", "retrieval": step.action.retrieval, "item_id": step.action.item_id}
    return {"action": action, "produced": [_piece_to_json(p) for p in step.produced], "ended": step.ended}


def _piece_to_json(piece: Piece) -> dict[str, Any]:
    if isinstance(piece, str):
        return {"type": "text", "text": piece}
    if isinstance(piece, Picture):
        return {"type": "image", "content_hash": piece.content_hash}
    return retrieval_to_json(piece)


def _replay(dialogue: Dialogue, data: Mapping[str, Any]) -> Dialogue:
    action = _action_from_json(data["action"])
    if isinstance(action, Pick):
        dialogue = dialogue.pick(action.item_id, action.retrieval)
    else:
        dialogue = dialogue.say(*action.pieces)
    ended = data["ended"]
    if ended is None:
        return dialogue
    if ended not in _END_REASONS:
        raise InputError(f"An answer cannot end by {ended!r}; it ends by one of {', '.join(_END_REASONS)}.")
    produced = [_piece_from_json(piece) for piece in data["produced"]]
    if (ended == "retrieval") != bool(produced and isinstance(produced[-1], Retrieval)):
        raise InputError("An answer ends by 'retrieval' if and only if its last piece is a retrieval.")
    return dialogue.answer(produced, ended)


def _action_from_json(data: Mapping[str, Any]) -> Message | Pick:
    if data["type"] == "pick":
        return Pick(int(data["retrieval"]), str(data["item_id"]))
    if data["type"] != "message":
        raise InputError(f"A step is a message or a pick, not {data['type']!r}.")
    pieces = [_piece_from_json(piece) for piece in data["pieces"]]
    spoken = tuple(piece for piece in pieces if not isinstance(piece, Retrieval))
    if len(spoken) != len(pieces):
        raise InputError("A message holds text and pictures; retrievals belong to answers.")
    return Message(spoken)


def _piece_from_json(data: Mapping[str, Any]) -> Piece:
    match data["type"]:
        case "text":
            return str(data["text"])
        case "image":
            return Picture(str(data["content_hash"]))
        case "retrieval":
            return Retrieval(
                candidates=tuple(_hit_from_json(hit) for hit in data["candidates"]),
                forced=bool(data["forced"]),
                model=str(data["model"]),
                index=str(data["index"]),
                coverage=float(data.get("coverage", 1.0)),  # transcripts of earlier versions had no partial answers
            )
    raise InputError(f"A piece is text, image or retrieval, not {data['type']!r}.")


def _hit_from_json(data: Mapping[str, Any]) -> Hit:
    return Hit(
        item_id=str(data["item_id"]),
        score=float(data["score"]),
        rank=int(data["rank"]),
        content_hash=str(data["content_hash"]),
        metadata={str(k): str(v) for k, v in data["metadata"].items()},
    )
