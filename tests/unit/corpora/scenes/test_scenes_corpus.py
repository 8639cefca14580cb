from __future__ import annotations

import json
import pickle
import re
from collections import Counter

import pytest
from chatsearch.corpora.base import Sample
from chatsearch.corpora.config import ScenesConfig, ScenesCounts
from chatsearch.corpora.images import check_image
from chatsearch.corpora.open import open_corpus
from chatsearch.corpora.scenes.draw import encode
from chatsearch.corpora.scenes.world import Scene, is_valid
from chatsearch.types import Document, Kind, Role, content_hash

COUNTS = dict.fromkeys([kind.value for kind in Kind if kind != Kind.GALLERY], 12)


def config(**changes: object) -> ScenesConfig:
    return ScenesConfig(**({"kinds": COUNTS | {"gallery": 5}, "num_distractors": 4} | changes))


def read(given: ScenesConfig) -> list[Sample]:
    corpus = open_corpus(given)
    found = [item for partition in corpus.partitions() for item in corpus.read(partition)]
    assert all(isinstance(item, Sample) for item in found)
    return found


@pytest.fixture(scope="module", params=["train", "test"])
def documents(request: pytest.FixtureRequest) -> list[Document]:
    return [sample.document for sample in read(config(split=request.param))]


def test_counts_and_unique_ids(documents: list[Document]) -> None:
    counts = Counter(document.kind for document in documents)
    assert all(counts[kind] == 12 for kind in Kind if kind != Kind.GALLERY)
    assert len({document.document_id for document in documents}) == len(documents)


def test_gallery_holds_all_context_and_target_pictures(documents: list[Document]) -> None:
    items = {d.document_id: d.images()[0] for d in documents if d.kind == Kind.GALLERY}
    for document in documents:
        if document.kind in (Kind.T, Kind.I, Kind.M):
            assert items[document.attributes["target_id"]] == document.query()[1]
            assert set(document.images()) <= set(items.values())


def test_truth_redraws_every_picture(documents: list[Document]) -> None:
    for document in documents:
        scenes = [Scene.from_dict(values) for values in json.loads(document.attributes.get("truth", "[]"))]
        assert [content_hash(encode(scene)) for scene in scenes] == document.images()
        assert all(is_valid(scene, document.split) for scene in scenes)


def test_loss_falls_on_the_assistant_alone(documents: list[Document]) -> None:
    for document in documents:
        if document.kind in (Kind.QUESTION, Kind.EDIT, Kind.T, Kind.I, Kind.M):
            assert all(s.loss == (s.role == Role.ASSISTANT) for s in document.segments)
            turns = [role for role, _ in document.turns()]
            assert turns == [Role.USER, Role.ASSISTANT] * (len(turns) // 2)
        else:
            assert all(s.role == Role.NONE and s.loss for s in document.segments)


def test_shapes(documents: list[Document]) -> None:
    for document in documents:
        images = [segment.image is not None for segment in document.segments]
        if document.kind == Kind.CAPTION:
            assert images == [True, False, False, False, False]
            assert json.loads(document.attributes["captions"]) == [s.text for s in document.segments[1:]]
        if document.kind == Kind.INTERLEAVED:
            assert images == [False, True] * (len(images) // 2)
        if document.kind == Kind.TEXT:
            assert images == [False]
        if document.kind == Kind.GALLERY:
            assert images == [True]


def test_images_are_given_and_acceptable() -> None:
    for sample in read(config(kinds={"chatsearch_m": 5}, image_size=80)):
        assert set(sample.images) == set(sample.document.images())
        for name, data in sample.images.items():
            assert content_hash(data) == name
            assert check_image(data) == (80, 80)


def test_partitions_are_independent_and_repeatable() -> None:
    corpus = open_corpus(config(kinds={"caption": 600, "chatsearch_i": 40, "gallery": 0}))
    partitions = corpus.partitions()
    assert len(partitions) == 3 + 1 + 2
    last = partitions[-1]
    again = open_corpus(config(kinds={"caption": 600, "chatsearch_i": 40, "gallery": 0}))
    assert list(again.read(pickle.loads(pickle.dumps(last)))) == list(corpus.read(last))  # noqa: S301 -- our own bytes
    assert [p.index for p in partitions] == list(range(len(partitions)))


def test_a_document_does_not_depend_on_how_many_there_are() -> None:
    few = {s.document.document_id: s.document for s in read(config(kinds={"chatsearch_t": 3, "edit": 2}))}
    many = {s.document.document_id: s.document for s in read(config(kinds={"chatsearch_t": 9, "edit": 7}))}
    assert few.items() <= many.items()


def test_unequal_numbers_of_i_and_m_leave_no_repeat() -> None:
    ids = [
        s.document.document_id
        for s in read(config(split="test", kinds={"chatsearch_i": 3, "chatsearch_m": 8, "gallery": 0}))
    ]
    assert len(set(ids)) == len(ids)


def test_seed_and_split_change_everything() -> None:
    one, two, three = (
        {s.document.images()[0] for s in read(config(kinds={"caption": 20}, **changes))}
        for changes in ({"seed": 1}, {"seed": 2}, {"split": "val"})
    )
    assert not one & two
    assert not one & three


def test_fingerprint() -> None:
    assert open_corpus(config()).fingerprint() == open_corpus(config()).fingerprint()
    for changes in ({"seed": 1}, {"split": "val"}, {"image_size": 96}, {"num_distractors": 3}, {"kinds": {"text": 1}}):
        assert open_corpus(config(**changes)).fingerprint() != open_corpus(config()).fingerprint()


def test_no_gallery_unless_asked_for() -> None:
    assert all(s.document.kind != Kind.GALLERY for s in read(config(kinds={"chatsearch_t": 2})))
    assert ScenesCounts(gallery=0).gallery == 0


def test_vocabulary_is_small() -> None:
    words: set[str] = set()
    for sample in read(config(kinds=dict.fromkeys(COUNTS, 150))):
        for segment in sample.document.segments:
            words |= set(re.findall(r"[a-z']+", segment.text or ""))
            assert (segment.text or "") == (segment.text or "").lower()
    assert 200 < len(words) < 900
