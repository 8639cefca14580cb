"""The decision protocol: which prompts count, and what the model is credited with."""

import pytest
import torch
from chatsearch.converse.pictures import PictureEncoder
from chatsearch.data.shards import DocumentShards
from chatsearch.errors import InputError
from chatsearch.evaluate.decision import Decision, Prompt, decide, prompts_of, score
from chatsearch.model.bundle import load_bundle
from chatsearch.types import Document, Kind, Role, Segment

ASK = Segment("find it", role=Role.USER, loss=False)


def test_prompts_end_before_the_last_answer():
    documents = [
        Document("q", Kind.QUESTION, (ASK, Segment("words", role=Role.ASSISTANT))),
        Document(
            "t", Kind.T, (ASK, Segment("which?", role=Role.ASSISTANT), ASK, Segment(image="h", role=Role.ASSISTANT))
        ),
        Document("c", Kind.CAPTION, (Segment(image="h"), Segment("a caption"))),
    ]
    prompts = prompts_of(documents, 5)
    assert [(p.prompt_id, p.wants_image, len(p.context)) for p in prompts] == [("t", True, 3), ("q", False, 1)]
    with pytest.raises(InputError, match="no question document"):
        prompts_of(documents[1:], 5)
    assert len(prompts_of(documents * 3, 2)) == 4


def test_precision_and_recall_by_hand():
    prompts = [Prompt("", (ASK,), wants) for wants in (True, True, True, False, False)]
    decisions = [Decision(first, first or later) for first, later in ((1, 1), (0, 1), (0, 0), (1, 1), (0, 0))]
    scores = score(prompts, decisions)
    assert scores["first_token"]["precision"] == 50.0
    assert scores["first_token"]["recall"] == pytest.approx(100 / 3)
    assert scores["in_answer"] == {
        "precision": pytest.approx(200 / 3),
        "recall": pytest.approx(200 / 3),
        "hits": 2,
        "false_alarms": 1,
        "misses": 1,
        "silences": 1,
    }


def test_a_model_that_never_retrieves_has_no_precision():
    scores = score([Prompt("", (ASK,), True), Prompt("", (ASK,), False)], [Decision(False, False)] * 2)
    assert scores["first_token"]["precision"] is None
    assert scores["first_token"]["recall"] == 0.0


@pytest.mark.parametrize("always", [True, False])
def test_the_free_decision_is_the_models_own(world, always):
    bundle = load_bundle(world.bundle)
    shards = DocumentShards.open(world.shards)
    with torch.no_grad():
        # A state that is the same everywhere (the final norm's gain at zero would be one): the word head alone decides.
        language = bundle.searcher.language
        language.decoder.norm.weight.zero_()
        language.decoder.norm.register_forward_hook(lambda module, args, out: out + 1.0)
        language.head_VH.zero_()
        language.control_head_2H.zero_()
        language.control_head_2H[0] += 1.0 if always else -1.0
    prompts = prompts_of(shards.documents(), 3)
    decisions = decide(bundle, prompts, PictureEncoder(bundle.vision, shards.images), max_words=4)
    assert decisions == [Decision(always, always)] * 6
