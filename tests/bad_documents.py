"""Documents that training can use, and some of each kind that it cannot."""

from __future__ import annotations

import io
from collections.abc import Sequence
from unittest import mock

import numpy as np
from chatsearch.corpora.base import Sample
from chatsearch.corpora.config import ScenesConfig
from chatsearch.data import part
from chatsearch.data.config import PrepareConfig
from chatsearch.data.part import commit_shards, write_part
from chatsearch.kinds import DOCUMENT_SHARDS
from chatsearch.manifest import begin_output
from chatsearch.types import Document, Kind, Role, Segment, content_hash
from PIL import Image


def picture(number: int) -> bytes:
    """A PNG that differs from those of other numbers."""
    pixels = np.random.default_rng(number).integers(0, 256, (24, 24, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def caption(number: int) -> Sample:
    """A picture and its caption."""
    return _captioned(f"good/{number}", picture(number))


def cut_short(number: int) -> Sample:
    """A picture whose file ends early, and its caption."""
    return _captioned(f"bad/{number}", picture(number)[:-900])


def answered(number: int) -> Sample:
    """A question with its answer."""
    return _dialogue(f"good/{number}", f"question {number}", answer=f"answer {number}")


def unanswered(number: int) -> Sample:
    """A dialogue in which only the user speaks."""
    return _dialogue(f"bad/{number}", f"question {number}")


def too_long(number: int) -> Sample:
    """A dialogue whose only round is longer than any row of the tests."""
    return _dialogue(f"bad/{number}", f"question {number}", answer="and so on " * 2000)


def write_documents(uri: str, samples: Sequence[Sample]) -> str:
    """Document shards of these samples; returns the URI."""
    output = begin_output(uri, DOCUMENT_SHARDS, PrepareConfig(corpus=ScenesConfig()), {})
    # Preparing finds pictures that are cut short; here it lets them pass, as another version of the decoder might.
    with mock.patch.object(part, "check_image", return_value=(24, 24)):
        return commit_shards(output, "test", [write_part(output.folder, 0, samples)]).uri


def _captioned(name: str, data: bytes) -> Sample:
    key = content_hash(data)
    return Sample(Document(name, Kind.CAPTION, (Segment(image=key), Segment(text="some words"))), {key: data})


def _dialogue(name: str, question: str, *, answer: str = "") -> Sample:
    segments = [Segment(text=question, role=Role.USER)]
    if answer:
        segments.append(Segment(text=answer, role=Role.ASSISTANT))
    return Sample(Document(name, Kind.QUESTION, tuple(segments)), {})
