"""From HTTP messages to dialogues: limits first, then meaning, then pictures.

Cheap checks come before dear ones, so that an oversized request is refused before anything is decoded.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import groupby

from chatsearch.converse.config import AnswerOptions
from chatsearch.converse.dialogue import Dialogue, Picture
from chatsearch.corpora.images import check_image
from chatsearch.types import Segment, content_hash

from serve.problems import refused, too_large
from serve.schema import AnswerRequest, ChatMessage, Content, ImagePart, Part, RankingOptions, TextPart
from serve.settings import Limits

GALLERY_IMAGES = "/v1/images/"
_DATA_URL = re.compile(r"data:image/(?:jpeg|jpg|png|webp);base64,", re.IGNORECASE)
_HASH = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Parsed:
    """Pieces of a message, and the encoded pictures that came with it."""

    pieces: tuple[str | Picture, ...]
    uploads: dict[str, bytes] = field(default_factory=dict)


def read_content(content: Content) -> Parsed:
    """The pieces of one message, its pictures checked.

    Raises:
        ProblemError: a picture is neither a data: URL nor one of this gallery.
        BadImageError: the bytes of a picture are not acceptable.
    """
    pieces: list[str | Picture] = []
    uploads: dict[str, bytes] = {}
    for part in _parts(content):
        if isinstance(part, TextPart):
            pieces.append(part.text)
        else:
            picture, data = _read_picture(part.image_url.url)
            pieces.append(picture)
            if data is not None:
                uploads[picture.content_hash] = data
    return Parsed(tuple(pieces), uploads)


def read_messages(messages: Sequence[ChatMessage], limits: Limits) -> tuple[Dialogue, dict[str, bytes]]:
    """The dialogue of a stateless request, which waits for an answer, and its uploads.

    Raises:
        ProblemError: it does not begin and end with the user, or is over a limit.
        BadImageError: the bytes of a picture are not acceptable.
    """
    turns = [
        (role, [part for m in run for part in _parts(m.content)]) for role, run in groupby(messages, lambda m: m.role)
    ]
    check_size(limits, num_turns=len(turns), parts=[part for _, parts in turns for part in parts])
    if not turns or turns[0][0] != "user" or turns[-1][0] != "user":
        raise refused(
            "bad-messages",
            "A dialogue begins and ends with a message of role 'user'.",
            "Put what the person says last; leave out assistant messages before the first user message.",
        )
    dialogue, uploads = Dialogue(), dict[str, bytes]()
    for role, parts in turns:
        parsed = read_content(parts)
        uploads |= parsed.uploads
        dialogue = dialogue.say(*parsed.pieces) if role == "user" else dialogue.answer(parsed.pieces, "stop")
    return dialogue, uploads


def check_size(limits: Limits, *, num_turns: int, parts: Iterable[Part], earlier: Iterable[Segment] = ()) -> None:
    """Check turns, pictures and characters of a dialogue.

    Raises:
        ProblemError: naming what is too many, and the limit.
    """
    parts, earlier = list(parts), list(earlier)
    num_images = sum(isinstance(p, ImagePart) for p in parts) + sum(s.image is not None for s in earlier)
    num_characters = sum(len(p.text) for p in parts if isinstance(p, TextPart)) + sum(
        len(s.text or "") for s in earlier
    )
    for what, value, limit in (
        ("Turns in the dialogue", num_turns, limits.max_turns),
        ("Pictures in the dialogue", num_images, limits.max_images),
        ("Characters of text in the dialogue", num_characters, limits.max_text_characters),
    ):
        if value > limit:
            raise too_large(what, value, limit)


def check_turn(dialogue: Dialogue, content: Content, limits: Limits) -> None:
    """Check that a message still fits into a conversation; raises as :func:`check_size`."""
    check_size(limits, num_turns=len(dialogue.turns()) + 1, parts=_parts(content), earlier=dialogue.segments())


def answer_options(request: AnswerRequest, limits: Limits) -> AnswerOptions:
    """The engine's options of a request.

    Raises:
        ProblemError: more tokens or candidates than allowed.
    """
    max_new_tokens = request.max_tokens or limits.max_new_tokens
    if max_new_tokens > limits.max_new_tokens:
        raise too_large("max_tokens", max_new_tokens, limits.max_new_tokens)
    return ranking_options(request, limits).replace(
        retrieve=request.retrieve, temperature=request.temperature, seed=request.seed, max_new_tokens=max_new_tokens
    )


def ranking_options(request: RankingOptions, limits: Limits) -> AnswerOptions:
    """The engine's options of a request that only ranks; raises as :func:`answer_options`."""
    if request.num_candidates > limits.max_candidates:
        raise too_large("num_candidates", request.num_candidates, limits.max_candidates)
    return AnswerOptions(
        num_candidates=request.num_candidates,
        exclude_context_images=request.exclude_context_images,
        max_prompt_tokens=limits.max_tokens,
    )


def _parts(content: Content) -> list[Part]:
    return [TextPart(type="text", text=content)] if isinstance(content, str) else content


def _read_picture(url: str) -> tuple[Picture, bytes | None]:
    """The picture behind a URL, with its bytes where they came along."""
    header = _DATA_URL.match(url)
    if header:
        try:
            data = base64.b64decode(url[header.end() :], validate=True)
        except ValueError as error:  # also of characters outside ASCII, which is no binascii.Error
            raise refused(
                "bad-image", "The data: URL of a picture is not valid base64.", "Encode the file again.", 422
            ) from error
        check_image(data)
        return Picture(content_hash(data)), data
    name = url.removeprefix(GALLERY_IMAGES)
    if name != url and _HASH.fullmatch(name):
        return Picture(name), None
    shown = url[:40] + ("..." if len(url) > 40 else "")
    raise refused(
        "remote-image-refused",
        f"The picture URL {shown!r} is neither a data: URL of a JPEG, PNG or WebP picture nor {GALLERY_IMAGES}<content hash>. "
        "Fetching remote URLs is off.",
        "Send the picture itself as data:image/jpeg;base64,...",
    )
