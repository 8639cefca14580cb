from __future__ import annotations

import itertools
import pickle
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from chatsearch.corpora.base import Sample
from chatsearch.corpora.images import decode_rgb
from chatsearch.data.config import StreamConfig
from chatsearch.data.pack import PADDING, Batch
from chatsearch.data.steps import StepBuilder, taken
from chatsearch.errors import ConfigError, InputError
from chatsearch.types import Kind, content_hash
from pydantic import ValidationError


@pytest.fixture
def builder(make_shards, caption_sample, dialogue_sample, tokenizer) -> StepBuilder:
    samples = [caption_sample(i) if i % 3 else dialogue_sample(i) for i in range(40)]
    uri = make_shards(samples, per_part=16)
    captions = StreamConfig(shards=uri, per_step=8, kinds=(Kind.CAPTION,))
    edits = StreamConfig(shards=uri, per_step=3, kinds=(Kind.EDIT,))
    return StepBuilder((captions, edits), tokenizer, num_queries=3, max_length=96, seed=11)


def changed(builder: StepBuilder, **changes) -> StepBuilder:
    return StepBuilder(**{**builder.__getstate__(), **changes})


def sequences(batches: Sequence[Batch]) -> list[tuple[list[int], list[int]]]:
    """Every packed document of the batches, whatever row it lies in, as ids and labels."""
    found = []
    for batch in batches:
        for row, numbers in enumerate(batch.document_ids):
            for number in range(numbers.max() + 1):
                at = numbers == number
                found.append((batch.input_ids[row, at].tolist(), batch.labels[row, at].tolist()))
    return found


def images(batches: Sequence[Batch]) -> list[tuple[int, str, bool]]:
    """In the order in which they enter the queue: by sample, those of one sample as they lie."""
    found = [
        (int(sample), name, bool(target))
        for batch in batches
        for sample, name, target in zip(batch.image_sample, batch.image_hashes, batch.image_target, strict=True)
    ]
    return sorted(found, key=lambda image: image[0])


@pytest.mark.parametrize("step", [0, 1, 9])
def test_the_step_does_not_depend_on_workers_or_micro_batches(builder: StepBuilder, step: int) -> None:
    whole = builder.build(step, 0, 1)
    assert len(images(whole)) == 8 + 2 * 3
    for world_size in (2, 3, 4):
        for micro in (1, 2):
            split = changed(builder, num_micro_batches=micro)
            shares = [batch for rank in range(world_size) for batch in split.build(step, rank, world_size)]
            assert len(shares) == world_size * micro
            assert images(shares) == images(whole)
            assert sorted(sequences(shares)) == sorted(sequences(whole))


@pytest.mark.parametrize("world_sizes", [(1,), (2,), (4,), (2, 1, 2), (4, 1, 3)], ids=str)
def test_the_global_order_survives_changes_of_the_worker_count_in_mid_epoch(builder: StepBuilder, world_sizes) -> None:
    num_captions = builder.plan.streams[0][0]
    steps = range(12)
    changes = [2, 7]  # neither lies where an epoch of captions ends
    assert all(step * 8 % num_captions for step in changes)
    assert steps[-1] * 8 > 2 * num_captions
    whole = [image for step in steps for image in images(builder.build(step, 0, 1))]
    order = []
    for step in steps:
        world_size = world_sizes[sum(step >= change for change in changes) % len(world_sizes)]
        order += images([batch for rank in range(world_size) for batch in builder.build(step, rank, world_size)])
    assert order == whole


def test_a_copy_on_another_worker_builds_the_same(builder: StepBuilder) -> None:
    wanted = builder.build(4, 1, 2)
    copy = pickle.loads(pickle.dumps(builder))  # noqa: S301
    for got, want in zip(copy.build(4, 1, 2), wanted, strict=True):
        for name, array in want.to_arrays().items():
            np.testing.assert_array_equal(got.to_arrays()[name], array)


def test_streams_keep_their_share_and_epochs_redraw(builder: StepBuilder) -> None:
    num_captions = len(builder.sources[0][1])
    assert builder.plan.streams == ((num_captions, 8), (40 - num_captions, 3))
    seen = {tuple(ids) for step in range(20) for ids, _ in sequences(builder.build(step, 0, 1))}
    assert len(seen) > 40  # captions come in several wordings and in both directions


def test_a_worker_without_samples_gets_one_row_of_padding(builder: StepBuilder) -> None:
    batches = changed(builder, num_micro_batches=6).build(0, 0, 4)
    assert len(batches) == 6
    empty = [b for b in batches if not b.num_images]
    assert empty
    assert all((b.document_ids == PADDING).all() and b.input_ids.shape == (1, 96) for b in empty)


def test_documents_that_do_not_fit_are_named_in_the_batch(builder: StepBuilder) -> None:
    batches = changed(builder, max_length=18).build(0, 0, 1)
    assert len(batches[0].rejected) == 3
    assert all("'edit/" in reason and "max_length is 18" in reason for reason in batches[0].rejected)
    assert set(batches[0].image_sample.tolist()) == set(range(8))


def test_pictures_come_along_for_an_online_encoder(builder: StepBuilder) -> None:
    (batch,) = changed(builder, preprocess=np.asarray).build(0, 0, 1)
    assert batch.pixels is not None
    assert batch.pixels.shape == (batch.num_images, 9, 8, 3)
    store = builder.sources[0][0].images
    for pixels, name in zip(batch.pixels, batch.image_hashes, strict=True):
        np.testing.assert_array_equal(pixels, np.asarray(decode_rgb(store.get(name))))


def test_a_picture_that_cannot_be_decoded_sets_its_document_aside(
    make_shards, caption_sample, dialogue_sample, tokenizer, monkeypatch
) -> None:
    samples = [caption_sample(n) if n % 2 else dialogue_sample(n) for n in range(8)]
    ((_, whole),) = caption_sample(3).images.items()
    samples[3] = caption_sample(3, data=whole[:-30])
    samples[4] = broken_dialogue(samples[4])
    # Preparing finds such a picture; here it has let two pass, as another version of the decoder might.
    monkeypatch.setattr("chatsearch.data.part.check_image", lambda data: (8, 9))
    builder = StepBuilder((StreamConfig(shards=make_shards(samples), per_step=8),), tokenizer, 3, 96)
    (unseen,) = builder.build(0, 0, 1)
    assert not unseen.rejected
    (batch,) = changed(builder, preprocess=np.asarray).build(0, 0, 1)
    assert sorted(reason.split(": ")[0] for reason in batch.rejected) == ["Document 'caption/3'", "Document 'edit/4'"]
    assert all("truncated or corrupt" in reason for reason in batch.rejected)
    assert batch.pixels is not None
    assert len(batch.pixels) == batch.num_images == unseen.num_images - 3
    kept = [(s, h) for s, h, _ in images([unseen]) if s in set(batch.image_sample.tolist())]
    assert [(s, h) for s, h, _ in images([batch])] == kept


def broken_dialogue(sample: Sample) -> Sample:
    """The same with half of its last picture."""
    *others, last = sample.document.segments
    data = sample.images[str(last.image)][:-30]
    images = {s.image: sample.images[s.image] for s in others if s.image} | {content_hash(data): data}
    return replace(
        sample,
        document=replace(sample.document, segments=(*others, replace(last, image=content_hash(data)))),
        images=images,
    )


def test_held_out_documents_never_reach_training(make_shards, caption_sample, tokenizer) -> None:
    uri = make_shards([caption_sample(0), caption_sample(1, split="test")])
    builder = StepBuilder((StreamConfig(shards=uri),), tokenizer, 3, 96)
    with pytest.raises(InputError, match="1 test documents where only train"):
        builder.build(0, 0, 1)
    assert changed(builder, split=None).build(0, 0, 1)[0].num_images == 1


def test_a_stream_without_documents_of_its_kinds_is_refused(builder: StepBuilder) -> None:
    stream = builder.streams[0].replace(kinds=(Kind.GALLERY,))
    with pytest.raises(ConfigError, match="Stream 0 holds 0 documents"):
        changed(builder, streams=(stream,)).build(0, 0, 1)


def test_a_share_of_a_kind_is_nested_and_leaves_other_kinds_alone(builder: StepBuilder) -> None:
    shards = builder.sources[0][0]

    def indices(**fractions: float) -> set[int]:
        return set(taken(shards, builder.streams[0].replace(kinds=(), fractions=fractions)).tolist())

    edits = set(shards.select([Kind.EDIT]).tolist())
    captions = set(shards.select([Kind.CAPTION]).tolist())
    assert indices() == indices(caption=1.0, edit=1.0) == edits | captions
    assert indices(edit=0.0) == captions
    found = [indices(edit=fraction) for fraction in (0.0, 0.1, 0.2, 0.5, 1.0)]
    assert [len(chosen & edits) for chosen in found] == [0, 2, 3, 7, 14]
    assert all(less < more and more - less <= edits for less, more in itertools.pairwise(found))
    assert indices(edit=0.5, caption=0.5) & captions == indices(caption=0.5) & captions
    whole = changed(builder, seed=5).sources[0][1].tolist()
    assert whole == builder.sources[0][1].tolist()


def test_shares_that_mean_nothing_are_refused(builder: StepBuilder) -> None:
    with pytest.raises(ConfigError, match="fractions names edit, of which kinds=caption takes nothing"):
        StreamConfig(kinds=(Kind.CAPTION,), fractions={Kind.EDIT: 0.5})
    with pytest.raises(ValidationError, match="less than or equal to 1"):
        StreamConfig(fractions={Kind.EDIT: 1.5})
    nothing = builder.streams[1].replace(fractions={Kind.EDIT: 0.0})
    with pytest.raises(ConfigError, match="Stream 0 holds 0 documents"):
        _ = changed(builder, streams=(nothing,)).plan
