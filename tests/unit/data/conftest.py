"""A small tokenizer, trained once, and small shards of drawn pictures."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from chatsearch.config import Config
from chatsearch.corpora.base import Rejected, Sample
from chatsearch.data.part import commit_shards, write_part
from chatsearch.data.tokenizer import ChatTokenizer, train_byte_bpe
from chatsearch.kinds import DOCUMENT_SHARDS
from chatsearch.manifest import begin_output
from chatsearch.types import Document, Kind, Role, Segment, content_hash
from PIL import Image

TEXTS = [
    "USER: find a red apple on a wooden table ASSISTANT: here is the red apple",
    "a dog runs on the beach, two cats sleep under a tree",
    "show me the same picture but with a blue car instead of the green one",
]


@pytest.fixture(scope="session")
def tokenizer() -> ChatTokenizer:
    return train_byte_bpe(TEXTS * 4, 400)


class ShardsConfig(Config):
    """Stands for whatever made the shards."""

    name: str = "test"


MakeShards = Callable[..., str]


@pytest.fixture
def make_shards(tmp_path: Path) -> MakeShards:
    """Write samples as finished shards, so many a part, and return their URI."""

    def make(records: Sequence[Sample | Rejected], *, per_part: int = 4, name: str = "shards") -> str:
        output = begin_output(str(tmp_path / name), DOCUMENT_SHARDS, ShardsConfig(), {})
        starts = range(0, len(records), per_part)
        parts = [write_part(output.folder, n, records[at : at + per_part]) for n, at in enumerate(starts)]
        commit_shards(output, "test", parts)
        return output.folder.uri

    return make


def picture(number: int, side: int = 8) -> bytes:
    """A small PNG, one a number."""
    buffer = io.BytesIO()
    Image.new("RGB", (side, side + 1), (number % 256, number // 256, 77)).save(buffer, "PNG")
    return buffer.getvalue()


MakeCaption = Callable[..., Sample]


@pytest.fixture(scope="session")
def caption_sample() -> MakeCaption:
    """A caption document with its own picture."""

    def make(number: int, *, split: str = "train", data: bytes | None = None, text: str = "") -> Sample:
        data = picture(number) if data is None else data
        name = content_hash(data)
        segments = (Segment(image=name), Segment(text=text or f"picture {number}"), Segment(text="a red apple"))
        document = Document(f"caption/{number}", Kind.CAPTION, segments, "test", split, {"note": f"n{number}"})
        return Sample(document, {name: data})

    return make


@pytest.fixture(scope="session")
def dialogue_sample() -> MakeCaption:
    """A dialogue: reference picture and words, answered by the next picture."""

    def make(number: int, *, split: str = "train") -> Sample:
        data, target = picture(number), picture(number + 1000)
        said = {"role": Role.USER, "loss": False}
        segments = (
            Segment(image=content_hash(data), **said),
            Segment(text=f"number {number} please", **said),
            Segment(image=content_hash(target), role=Role.ASSISTANT),
        )
        document = Document(f"edit/{number}", Kind.EDIT, segments, "test", split)
        return Sample(document, {content_hash(d): d for d in (data, target)})

    return make
