"""Documents through tokenizer, packing, model and objective; section 8, checks 4, 5, 9 and 10 on real examples."""

import pytest
import torch
from chatsearch.data.coin import Coin
from chatsearch.data.example import build_example, query_example
from chatsearch.data.pack import pack
from chatsearch.model.config import ObjectiveConfig
from chatsearch.model.objective import IGNORE, image_loss, word_loss
from chatsearch.model.queue import FeatureQueue, content_id
from chatsearch.testing.tiny import tiny_config, tiny_searcher, tiny_tokenizer
from chatsearch.types import Document, Kind, Role, Segment, content_hash

NUM_QUERIES = 2
REFERENCE, PICKED, TARGET, OTHER = (content_hash(name.encode()) for name in ("reference", "picked", "target", "other"))


def user(**what):
    return Segment(role=Role.USER, loss=False, **what)


def assistant(**what):
    return Segment(role=Role.ASSISTANT, **what)


def dialogue(picked=PICKED, target=TARGET, reference=REFERENCE):
    segments = (
        user(image=reference),
        user(text="like this, but red"),
        assistant(image=picked),
        user(text="now on the left"),
        assistant(image=target),
    )
    return Document("d", Kind.M, segments)


@pytest.fixture(scope="module")
def tokenizer():
    return tiny_tokenizer()


@pytest.fixture(scope="module")
def searcher(tokenizer):
    return tiny_searcher(tiny_config(tokenizer.text_vocab_size, NUM_QUERIES))


def features(searcher, hashes):
    """Features that depend on the picture alone."""
    vision = searcher.config.vision
    cls, tokens = [], []
    for name in hashes:
        generator = torch.Generator().manual_seed(content_id(name) % 2**31)
        cls.append(torch.randn(vision.feature_dim, generator=generator))
        tokens.append(torch.randn(vision.num_tokens, vision.token_dim, generator=generator))
    return torch.stack(cls), torch.stack(tokens)


def run(searcher, tokenizer, documents, length=120):
    examples = [
        build_example(
            document, tokenizer, NUM_QUERIES, max_length=length, answer_only=True, coin=Coin(0, document.document_id, 0)
        )
        for document in documents
    ]
    batch = pack(examples, range(len(examples)), length=length, pad_id=tokenizer.pad_id)
    cls_ID, tokens_ITE = features(searcher, batch.image_hashes)
    with torch.no_grad():
        hidden_RLH = searcher(
            torch.from_numpy(batch.input_ids),
            torch.from_numpy(batch.position_ids),
            image_row_I=torch.from_numpy(batch.image_row),
            image_col_I=torch.from_numpy(batch.image_col),
            cls_ID=cls_ID,
            tokens_ITE=tokens_ITE,
        )
    states_IH = searcher.image_states(hidden_RLH, torch.from_numpy(batch.image_row), torch.from_numpy(batch.image_col))
    return batch, hidden_RLH, states_IH


def test_the_state_that_is_read_stands_on_img_and_the_block_ends_in_end_img(searcher, tokenizer):
    batch, _, _ = run(searcher, tokenizer, [dialogue(), dialogue(picked=OTHER)])
    rows, cols = batch.image_row, batch.image_col
    assert (batch.input_ids[rows, cols - 1] == tokenizer.img_id).all()
    assert (batch.input_ids[rows, cols + NUM_QUERIES + 1] == tokenizer.end_img_id).all()


def test_only_the_answers_give_loss(searcher, tokenizer):
    batch, hidden_RLH, states_IH = run(searcher, tokenizer, [dialogue()])
    assert batch.image_target.tolist() == [False, True, True]
    labels = batch.labels[batch.labels != IGNORE].tolist()
    answer = [tokenizer.img_id, tokenizer.end_img_id, tokenizer.eos_id]
    assert labels == answer * 2
    for col in batch.image_col:
        # [IMG] wants the picture and <CLS> .. q(N-1) want queries: no word in any of them.
        assert (batch.labels[0, col - 1 : col + NUM_QUERIES] == IGNORE).all()
    words = word_loss(hidden_RLH, torch.from_numpy(batch.labels), searcher.word_logits)
    queue = FeatureQueue(10, searcher.config.vision.feature_dim)
    cls_ID, _ = features(searcher, batch.image_hashes)
    candidates = queue.enqueue(cls_ID, torch.tensor([content_id(name) for name in batch.image_hashes]))
    wanted_I = torch.from_numpy(batch.image_target)
    images = image_loss(
        searcher.query_embedding(states_IH[wanted_I]),
        searcher.gallery_embedding(candidates.features_CD),
        candidates.slots_N[wanted_I],
        torch.from_numpy(batch.image_first)[wanted_I],
        searcher.scale,
        ids_C=candidates.ids_C,
        valid_C=candidates.valid_C,
        config=ObjectiveConfig(),
    )
    assert (words.count, images.wanted.count) == (6, 2)
    assert candidates.valid_C.sum() == 3  # the user's picture entered too


def test_the_target_does_not_move_its_own_query_but_every_picture_before_it_does(searcher, tokenizer):
    _, _, states_IH = run(searcher, tokenizer, [dialogue()])
    _, _, other_target_IH = run(searcher, tokenizer, [dialogue(target=OTHER)])
    _, _, other_pick_IH = run(searcher, tokenizer, [dialogue(picked=OTHER)])
    _, _, other_reference_IH = run(searcher, tokenizer, [dialogue(reference=OTHER)])
    assert torch.equal(states_IH, other_target_IH)
    assert torch.equal(states_IH[:2], other_pick_IH[:2])
    assert not torch.equal(states_IH[2], other_pick_IH[2])
    assert not torch.equal(states_IH[1], other_reference_IH[1])


def test_a_forced_query_reads_the_state_that_training_reads(searcher, tokenizer):
    """The context alone, decoded in steps, gives the query of the whole document."""
    document = dialogue()
    _, _, states_IH = run(searcher, tokenizer, [document])
    example = query_example(document.segments[:-1], tokenizer, NUM_QUERIES, max_length=120)
    cls_ID, tokens_ITE = features(searcher, example.image_hashes)
    cols_I = torch.from_numpy(example.image_positions).long()
    with torch.no_grad():
        embeddings_RLH = searcher.input_embeddings(
            torch.from_numpy(example.input_ids).long()[None], torch.zeros_like(cols_I), cols_I, cls_ID, tokens_ITE
        )
        hidden_RLH = searcher.decode_step(embeddings_RLH, searcher.new_cache())
    assert example.input_ids[-1] == tokenizer.img_id
    torch.testing.assert_close(hidden_RLH[0, -1], states_IH[-1], atol=1e-5, rtol=1e-5)


def test_padding_gives_finite_states(searcher, tokenizer):
    _, hidden_RLH, _ = run(searcher, tokenizer, [dialogue()], length=300)
    assert torch.isfinite(hidden_RLH).all()
