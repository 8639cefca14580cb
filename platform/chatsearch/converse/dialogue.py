"""A dialogue as an immutable value: what was said, shown, picked and decided.

    Dialogue
    |-- steps: what the person did (a Message or a Pick), each with what the assistant produced
    |-- turns(): user and assistant turns, derived from the steps
    |     Turn.pieces: text, picture, or Retrieval (one [IMG] with its candidates)
    |-- segments(): the same in the vocabulary that models read

The steps are the truth and everything else is derived from them. That makes ``undo`` exact (drop the last
step), keeps every pick in the export, even those taken back by a later pick, and leaves no second copy of
the state to drift.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from chatsearch.errors import MissingInputError, UnsupportedRequestError
from chatsearch.types import Hit, Role, Segment

EndReason = Literal["stop", "length", "retrieval"]
"""Why decoding paused: end of answer, no room left, or an ``[IMG]`` that waits for a pick."""


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture in a turn, named by the sha256 of its encoded bytes."""

    content_hash: str


@dataclass(frozen=True, slots=True)
class Retrieval:
    """One ``[IMG]`` of the assistant: the candidates shown and what became of them."""

    candidates: tuple[Hit, ...]
    """Best first. Empty where the gallery holds nothing but excluded pictures."""
    forced: bool
    """True where the request asked for a search; False where the model decided by itself."""
    model: str
    """Fingerprint of the model whose query embedding ranked the candidates."""
    index: str
    """Version of the index that was searched."""
    coverage: float = 1.0
    """Share of the gallery that was searched; below 1 better candidates may lie in shards that were down."""
    picked: Hit | None = None
    auto_selected: bool = False
    """True where nobody picked and the top candidate was taken because the dialogue went on."""

    def candidate(self, item_id: str) -> Hit:
        """The candidate with this item id.

        Raises:
            MissingInputError: if it was not among those shown.
        """
        for hit in self.candidates:
            if hit.item_id == item_id:
                return hit
        shown = ", ".join(repr(h.item_id) for h in self.candidates) or "none"
        raise MissingInputError(f"Item {item_id!r} is not among the candidates shown. Pick one of: {shown}.")


Piece = str | Picture | Retrieval


@dataclass(frozen=True, slots=True)
class Message:
    """The person's message: text and pictures, in order."""

    pieces: tuple[str | Picture, ...]


@dataclass(frozen=True, slots=True)
class Pick:
    """The person chose a candidate of a retrieval of the last answer."""

    retrieval: int
    """Position of the retrieval among those of the answer it belongs to, from 0."""
    item_id: str


@dataclass(frozen=True, slots=True)
class Step:
    """One action and what the assistant produced after it; ``ended`` is None until it has answered."""

    action: Message | Pick
    produced: tuple[Piece, ...] = ()
    """Text and retrievals; pictures only in answers that came with a request rather than from the engine."""
    ended: EndReason | None = None


@dataclass(frozen=True, slots=True)
class Turn:
    """What one side said, derived from the steps."""

    role: Role
    pieces: tuple[Piece, ...]
    ended: EndReason | None = None
    """Of assistant turns: why it paused; None while it is still being produced."""

    def retrievals(self) -> list[Retrieval]:
        """The retrievals of this turn, in order."""
        return [p for p in self.pieces if isinstance(p, Retrieval)]


@dataclass(frozen=True, slots=True)
class Dialogue:
    """An immutable dialogue. Every method that changes something returns a new one."""

    steps: tuple[Step, ...] = ()

    # ---- what the person does

    def say(self, *pieces: str | Picture) -> Dialogue:
        """Add a message. An open retrieval is settled by its top candidate, flagged ``auto_selected``.

        Raises:
            UnsupportedRequestError: for a message without any text or picture.
        """
        kept = tuple(p for p in pieces if isinstance(p, Picture) or p.strip())
        if not kept:
            raise UnsupportedRequestError("The message is empty. Write something or attach a picture.")
        return Dialogue((*self._answered("a new message"), Step(Message(kept))))

    def pick(self, item_id: str, retrieval: int | None = None) -> Dialogue:
        """Choose a candidate of the last answer; what followed that retrieval is rewound.

        Args:
            item_id: One of the candidates shown.
            retrieval: Which retrieval of the last answer, from 0; by default its last one.

        Raises:
            UnsupportedRequestError: the last answer has no such retrieval.
            MissingInputError: the item was not among its candidates.
        """
        steps = self._answered("a pick")
        turns = self.turns()
        found = turns[-1].retrievals() if turns else []
        if not found:
            raise UnsupportedRequestError(
                "The last answer shows no candidates, so there is nothing to pick. Undo back to the answer that does."
            )
        which = len(found) - 1 if retrieval is None else retrieval
        if not 0 <= which < len(found):
            raise UnsupportedRequestError(
                f"The last answer has {len(found)} retrievals, numbered from 0; there is no {which}."
            )
        found[which].candidate(item_id)
        return Dialogue((*steps, Step(Pick(which, item_id))))

    def undo(self) -> Dialogue:
        """The dialogue before the last message or pick, exactly.

        Raises:
            UnsupportedRequestError: if nothing has been said yet.
        """
        if not self.steps:
            raise UnsupportedRequestError("There is nothing to undo: the dialogue is empty.")
        return self.rewind(len(self.steps) - 1)

    def rewind(self, num_steps: int) -> Dialogue:
        """Keep the first ``num_steps`` messages and picks.

        Raises:
            UnsupportedRequestError: if there are fewer.
        """
        if not 0 <= num_steps <= len(self.steps):
            raise UnsupportedRequestError(f"Cannot keep {num_steps} steps of a dialogue with {len(self.steps)}.")
        return Dialogue(self.steps[:num_steps])

    # ---- what the assistant does

    def answer(self, produced: Sequence[Piece], ended: EndReason) -> Dialogue:
        """Record what was produced after the last step."""
        assert self.awaits_answer, "the last step is answered already, or there is none"
        return Dialogue((*self.steps[:-1], replace(self.steps[-1], produced=tuple(produced), ended=ended)))

    @property
    def awaits_answer(self) -> bool:
        """Whether the last step has not been answered yet."""
        return bool(self.steps) and self.steps[-1].ended is None

    # ---- what is derived

    def turns(self) -> tuple[Turn, ...]:
        """User and assistant turns, oldest first; rewound pieces are not in them."""
        turns: list[Turn] = []
        for step in self.steps:
            if isinstance(step.action, Pick):
                kept = _pieces_up_to_pick(turns.pop(), step.action)
            else:
                if turns and turns[-1].role == Role.ASSISTANT:
                    turns[-1] = _settled(turns[-1])
                turns.append(Turn(Role.USER, step.action.pieces))
                kept = ()
            if kept or step.ended is not None:
                turns.append(Turn(Role.ASSISTANT, (*kept, *step.produced), step.ended))
        return tuple(turns)

    def segments(self) -> tuple[Segment, ...]:
        """The dialogue as a model reads it. A retrieval is the picture picked; an open one is left out."""
        segments: list[Segment] = []
        for turn in self.turns():
            answers = turn.role == Role.ASSISTANT
            for piece in turn.pieces:
                if isinstance(piece, str):
                    segments.append(Segment(text=piece, role=turn.role, loss=answers))
                elif isinstance(piece, Picture):
                    segments.append(Segment(image=piece.content_hash, role=turn.role, loss=answers))
                elif piece.picked is not None:
                    segments.append(Segment(image=piece.picked.content_hash, role=turn.role, loss=answers))
        return tuple(segments)

    def images(self) -> tuple[str, ...]:
        """Content hashes of all pictures in the context, in order, each once."""
        return tuple(dict.fromkeys(s.image for s in self.segments() if s.image is not None))

    def open_retrieval(self) -> Retrieval | None:
        """The retrieval that waits for a pick, if the dialogue has paused at one."""
        turns = self.turns()
        last = turns[-1].pieces[-1] if turns and turns[-1].pieces else None
        return last if isinstance(last, Retrieval) and last.picked is None else None

    def _answered(self, before: str) -> tuple[Step, ...]:
        if self.awaits_answer:
            raise UnsupportedRequestError(f"The last step has no answer yet; let it finish before {before}.")
        return self.steps


def _settled(turn: Turn) -> Turn:
    """The turn with an open retrieval at its end closed by the top candidate, flagged."""
    last = turn.pieces[-1] if turn.pieces else None
    if not isinstance(last, Retrieval) or last.picked is not None or not last.candidates:
        return turn
    return replace(turn, pieces=(*turn.pieces[:-1], replace(last, picked=last.candidates[0], auto_selected=True)))


def _pieces_up_to_pick(turn: Turn, pick: Pick) -> tuple[Piece, ...]:
    """The pieces of a turn up to a retrieval, with the pick in it; the rest is rewound."""
    where = [at for at, piece in enumerate(turn.pieces) if isinstance(piece, Retrieval)][pick.retrieval]
    retrieval = turn.pieces[where]
    assert isinstance(retrieval, Retrieval)
    picked = replace(retrieval, picked=retrieval.candidate(pick.item_id), auto_selected=False)
    return (*turn.pieces[:where], picked)
