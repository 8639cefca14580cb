"""The ChatSearch protocol on a made-up space where every rank is known, and on the drawn world."""

import numpy as np
import pytest
from chatsearch.converse.pictures import PictureEncoder
from chatsearch.data.shards import DocumentShards
from chatsearch.errors import InputError, MissingInputError
from chatsearch.evaluate.chatsearch import ChatSearchEvaluation
from chatsearch.evaluate.methods import ChatSearcherMethod, RandomMethod
from chatsearch.evaluate.queries import Query, queries_by_sub_task, query_of
from chatsearch.index.features import FeatureStore
from chatsearch.index.projection import Projection
from chatsearch.model.bundle import load_bundle
from chatsearch.types import Document, Kind, Role, Segment

ANGLES = {"ref": 0.0, "near": 0.1, "target": 0.2, "other": 0.5, "far": 1.5}


class Angles:
    """f_CLS of a picture is a direction in the plane."""

    def matrix(self, hashes, *, what=""):
        return np.array([[np.cos(ANGLES[h]), np.sin(ANGLES[h])] for h in hashes], np.float32)


class Looks:
    """A method that looks into a fixed direction for each sub-task, and cannot be asked t."""

    name = "looks"

    def applies_to(self, sub_task):
        return sub_task != "t"

    def queries(self, queries):
        return np.tile(np.array([[np.cos(0.02), np.sin(0.02)]], np.float32), (len(queries), 1))

    def gallery(self, features_ND):
        return features_ND


def a_query(name, target, *, images=("ref",), pipeline="p1"):
    pictures = [Segment(image=i, role=Role.USER) for i in images]
    context = (*pictures, Segment("this, but closer", role=Role.USER))
    return Query(name, context, target, pipeline)


def test_galleries_context_pictures_and_pipelines_are_told_apart():
    tasks = {"t": [a_query("0", "far", images=())], "i": [a_query("1", "target"), a_query("2", "far", pipeline="p2")]}
    evaluation = ChatSearchEvaluation(tasks, list(ANGLES), Angles())
    result = evaluation.measure(Looks())
    assert result["t"] is None
    everything, targets = result["i"]["all"], result["i"]["targets"]
    # Over all five pictures: ref (dropped), near, target, other, far.
    assert (everything["R@1"], everything["R@5"], everything["median_rank"]) == (0.0, 100.0, 3.0)
    assert everything["context_kept"] == {"R@1": 0.0, "R@5": 100.0, "R@10": 100.0}
    # Over the two targets: target, far.
    assert (targets["R@1"], targets["R@5"]) == (50.0, 100.0)
    assert targets["pipelines"]["p1"]["R@1"] == 100.0
    assert targets["pipelines"]["p2"]["R@1"] == 0.0
    assert targets["pipelines"]["p2"]["own_targets"]["R@1"] == 100.0
    assert result["average"]["targets"] == pytest.approx((50 + 100 + 100) / 3)
    assert evaluation.counts()["i"] == {
        "num_queries": 2,
        "num_gallery": {"targets": 2, "all": 5},
        "mean_context_words": 3.0,
    }


def test_a_query_with_its_history_stands_beside_its_last_round():
    tasks = {
        "i": [a_query("i0", "near"), a_query("i1", "far")],
        "m": [
            a_query("m0", "far", images=("other", "ref"), pipeline="p2"),
            a_query("m1", "near"),
            a_query("m2", "far", images=("ref", "other")),  # another last round than any of i
        ],
    }
    beside = ChatSearchEvaluation(tasks, list(ANGLES), Angles()).measure(Looks())["m"]["all"]["beside_i"]
    assert {name: pair["num_queries"] for name, pair in beside.items()} == {"p1": 1, "p2": 1}
    assert beside["p1"]["i"] == beside["p1"]["m"] == {"R@1": 100.0, "R@5": 100.0, "R@10": 100.0}
    # The same last round; the history drops one more picture from the ranking, though not one behind "far".
    assert beside["p2"]["i"]["R@1"] == beside["p2"]["m"]["R@1"] == 0.0


def test_dropping_the_reference_is_worth_a_place():
    evaluation = ChatSearchEvaluation({"i": [a_query("1", "near")]}, list(ANGLES), Angles())
    cell = evaluation.measure(Looks())["i"]["all"]
    assert cell["R@1"] == 100.0
    assert cell["context_kept"]["R@1"] == 0.0


def test_random_is_a_line_through_the_gallery_sizes():
    queries = [a_query(str(n), name) for n, name in enumerate(ANGLES)] * 400
    evaluation = ChatSearchEvaluation({"i": queries}, list(ANGLES), Angles())
    assert evaluation.expected_random()["i"]["all"] == {"R@1": 20.0, "R@5": 100.0, "R@10": 100.0}
    kept = evaluation.measure(RandomMethod(0))["i"]["all"]["context_kept"]
    assert abs(kept["R@1"] - 20.0) < 4.0


def test_a_target_outside_the_gallery_is_an_error_not_a_miss():
    with pytest.raises(MissingInputError, match="1 of 1 targets of sub-task t"):
        ChatSearchEvaluation({"t": [a_query("1", "far")]}, ["ref", "near"], Angles())


def test_shards_without_dialogues_are_refused():
    gallery = Document("g", Kind.GALLERY, (Segment(image="h"),))
    with pytest.raises(InputError, match="no t, i or m dialogue"):
        queries_by_sub_task([gallery])
    with pytest.raises(InputError, match="nothing before its image"):
        query_of(gallery)


def test_the_model_sees_the_whole_context_and_its_gallery_is_the_index(world):
    bundle = load_bundle(world.bundle)
    shards, store = DocumentShards.open(world.shards), FeatureStore.open(world.features)
    method = ChatSearcherMethod(bundle, PictureEncoder(bundle.vision, shards.images), batch_size=3)
    np.testing.assert_array_equal(method.gallery(store.matrix_ND), Projection.open(world.bundle).apply(store.matrix_ND))
    tasks = queries_by_sub_task(shards.documents())
    assert {name: len(queries) for name, queries in tasks.items()} == {"t": 5, "i": 5, "m": 5}
    query = next(q for q in tasks["m"] if len(q.images) > 0 and len(q.context) > 2)
    shorter = Query("short", query.context[-1:], query.target)
    vectors = method.queries([query, shorter])
    assert np.linalg.norm(vectors, axis=1) == pytest.approx([1.0, 1.0], abs=1e-5)
    assert not np.allclose(vectors[0], vectors[1])
