"""Pictures of held-out shards among those that training takes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from chatsearch.data.config import StreamConfig
from chatsearch.data.leaks import leaks
from chatsearch.data.shards import DocumentShards
from chatsearch.data.steps import StepBuilder, taken
from chatsearch.errors import IncompleteArtefactError, InputError
from chatsearch.types import Kind


@pytest.fixture
def training(make_shards, caption_sample, dialogue_sample) -> str:
    return make_shards([caption_sample(i) if i % 3 else dialogue_sample(i) for i in range(40)], per_part=16)


@pytest.fixture
def held_out(make_shards, caption_sample) -> str:
    """Pictures of two captions, of the reference of one edit and of the answer to another, and one of its own."""
    samples = [caption_sample(number, split="test") for number in (1, 20, 9, 1030, 500)]
    return make_shards(samples, name="held-out")


def test_documents_and_pictures_are_counted_among_what_a_stream_takes(training: str, held_out: str) -> None:
    shards = DocumentShards.open(training)
    for kinds, wanted in (((), [1, 9, 20, 30]), ((Kind.CAPTION,), [1, 20]), ((Kind.EDIT,), [9, 30])):
        (leak,) = leaks(shards, taken(shards, StreamConfig(shards=training, kinds=kinds)), [held_out])
        assert leak.documents_L.tolist() == wanted
        assert leak.num_pictures == len(wanted)
        assert str(leak) == (
            f"{len(wanted)} documents of {training} show {len(wanted)} pictures of the held-out {held_out}"
        )
    assert leaks(shards, np.arange(10, 20), [held_out]) == []


def test_two_documents_may_show_one_held_out_picture(make_shards, caption_sample, held_out: str) -> None:
    twice = [caption_sample(1), caption_sample(2), replace_id(caption_sample(1))]
    shards = DocumentShards.open(make_shards(twice, name="twice", per_part=2))
    (leak,) = leaks(shards, np.arange(3), [held_out])
    assert (leak.documents_L.tolist(), leak.num_pictures) == ([0, 2], 1)


def replace_id(sample):
    return replace(sample, document=replace(sample.document, document_id="again"))


def test_left_out_documents_are_in_no_step(training: str, held_out: str, tokenizer) -> None:
    stream = StreamConfig(shards=training, per_step=36)
    builder = StepBuilder((stream,), tokenizer, num_queries=3, max_length=96, held_out=(held_out,))
    seen = {name for step in range(2) for batch in builder.build(step, 0, 1) for name in batch.image_hashes}
    assert not seen & set(DocumentShards.open(held_out).images.hashes())
    everything = StepBuilder((stream.replace(per_step=40),), tokenizer, num_queries=3, max_length=96).build(0, 0, 1)
    assert {name for batch in everything for name in batch.image_hashes} - seen == {
        name for number in (1, 9, 20, 30) for name in DocumentShards.open(training).document(number).images()
    }


def test_galleries_that_are_everything_or_not_there_are_refused(training: str, tokenizer) -> None:
    stream = StreamConfig(shards=training, per_step=4)
    with pytest.raises(InputError, match=r"All 40 documents .* show pictures of"):
        StepBuilder((stream,), tokenizer, 3, 96, held_out=(training,)).build(0, 0, 1)
    with pytest.raises(IncompleteArtefactError):
        StepBuilder((stream,), tokenizer, 3, 96, held_out=(training + "-none",)).build(0, 0, 1)
