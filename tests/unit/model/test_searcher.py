"""Section 8, checks 4 and 6, packing, gradients, the incremental path. R rows, L positions, H hidden, I images."""

import math

import pytest
import torch
from chatsearch.errors import ConfigError
from chatsearch.model.config import SearcherConfig
from chatsearch.testing.tiny import tiny_config, tiny_searcher

CONFIG = tiny_config()
NUM_QUERIES = CONFIG.num_queries
V = CONFIG.language.vocab_size
IMG, END_IMG = V, V + 1
BLOCK = [IMG] + [0] * (NUM_QUERIES + 1) + [END_IMG]


@pytest.fixture(scope="module")
def searcher():
    return tiny_searcher(CONFIG)


def pictures(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    vision = CONFIG.vision
    cls_ID = torch.randn(count, vision.feature_dim, generator=generator)
    return cls_ID, torch.randn(count, vision.num_tokens, vision.token_dim, generator=generator)


def one_document(searcher, ids, cols, cls_ID, tokens_ITE):
    """Hidden states (L, H) of a document alone in its row."""
    ids_RL = torch.tensor([ids])
    return searcher(
        ids_RL,
        torch.arange(len(ids))[None],
        image_row_I=torch.zeros(len(cols), dtype=torch.int64),
        image_col_I=torch.tensor(cols, dtype=torch.int64),
        cls_ID=cls_ID,
        tokens_ITE=tokens_ITE,
    )[0]


# Document: three words, a context image, two words, the target image.
DOCUMENT = [5, 6, 7, *BLOCK, 8, 9, *BLOCK]
CONTEXT_COL = 4
TARGET_COL = 3 + len(BLOCK) + 2 + 1


def test_an_image_block_takes_n_plus_3_positions():
    assert CONFIG.block_length == NUM_QUERIES + 3 == len(BLOCK)
    assert SearcherConfig().block_length == 35


def test_swapping_the_target_image_leaves_its_query_bit_identical(searcher):
    cls_ID, tokens_ITE = pictures(2)
    other_cls, other_tokens = pictures(2, seed=1)
    cols = [CONTEXT_COL, TARGET_COL]
    with torch.no_grad():
        before_LH = one_document(searcher, DOCUMENT, cols, cls_ID, tokens_ITE)
        swap_cls, swap_tokens = cls_ID.clone(), tokens_ITE.clone()
        swap_cls[1], swap_tokens[1] = other_cls[1], other_tokens[1]
        after_LH = one_document(searcher, DOCUMENT, cols, swap_cls, swap_tokens)
    state = TARGET_COL - 1
    assert DOCUMENT[state] == IMG
    assert torch.equal(before_LH[: state + 1], after_LH[: state + 1])
    assert not torch.allclose(before_LH[state + 1], after_LH[state + 1], atol=1e-3)


@pytest.mark.parametrize("part", ["cls", "tokens"])
def test_swapping_a_context_image_changes_the_query(searcher, part):
    cls_ID, tokens_ITE = pictures(2)
    other_cls, other_tokens = pictures(2, seed=1)
    cols = [CONTEXT_COL, TARGET_COL]
    swap_cls, swap_tokens = cls_ID.clone(), tokens_ITE.clone()
    if part == "cls":
        swap_cls[0] = other_cls[0]
    else:
        swap_tokens[0] = other_tokens[0]
    with torch.no_grad():
        before_LH = one_document(searcher, DOCUMENT, cols, cls_ID, tokens_ITE)
        after_LH = one_document(searcher, DOCUMENT, cols, swap_cls, swap_tokens)
    assert not torch.equal(before_LH[TARGET_COL - 1], after_LH[TARGET_COL - 1])


def test_what_stands_in_image_slots_is_not_looked_at(searcher):
    cls_ID, tokens_ITE = pictures(2)
    cols = [CONTEXT_COL, TARGET_COL]
    other = list(DOCUMENT)
    for col in cols:
        for offset in range(NUM_QUERIES + 1):
            other[col + offset] = 11
    with torch.no_grad():
        a_LH = one_document(searcher, DOCUMENT, cols, cls_ID, tokens_ITE)
        b_LH = one_document(searcher, other, cols, cls_ID, tokens_ITE)
    assert torch.equal(a_LH, b_LH)


def packed(searcher, first, cls_ID, tokens_ITE):
    """``first`` and DOCUMENT in one row, then a second row of DOCUMENT and padding."""
    length = len(first) + len(DOCUMENT)
    padding = length - len(DOCUMENT)
    ids_RL = torch.tensor([first + DOCUMENT, DOCUMENT + [0] * padding])
    position_ids_RL = torch.tensor(
        [
            [*range(len(first)), *range(len(DOCUMENT))],
            [*range(len(DOCUMENT)), *range(padding)],
        ]
    )
    cols = [CONTEXT_COL + len(first), TARGET_COL + len(first), CONTEXT_COL, TARGET_COL]
    return searcher(
        ids_RL,
        position_ids_RL,
        image_row_I=torch.tensor([0, 0, 1, 1]),
        image_col_I=torch.tensor(cols),
        cls_ID=cls_ID[[0, 1, 0, 1]],
        tokens_ITE=tokens_ITE[[0, 1, 0, 1]],
    )


def test_packed_documents_have_the_logits_of_separate_ones(searcher):
    cls_ID, tokens_ITE = pictures(2)
    first = [21, 22, 23, 24, 25]
    with torch.no_grad():
        hidden_RLH = packed(searcher, first, cls_ID, tokens_ITE)
        alone_LH = one_document(searcher, DOCUMENT, [CONTEXT_COL, TARGET_COL], cls_ID, tokens_ITE)
        first_LH = one_document(searcher, first, [], *pictures(0))
        for got_LH, want_LH in [
            (hidden_RLH[0, : len(first)], first_LH),
            (hidden_RLH[0, len(first) :], alone_LH),
            (hidden_RLH[1, : len(DOCUMENT)], alone_LH),
        ]:
            torch.testing.assert_close(
                searcher.word_logits(got_LH), searcher.word_logits(want_LH), atol=1e-5, rtol=1e-5
            )
        assert torch.isfinite(hidden_RLH).all()


def test_a_neighbour_in_the_row_changes_nothing(searcher):
    cls_ID, tokens_ITE = pictures(2)
    with torch.no_grad():
        one_RLH = packed(searcher, [21, 22, 23], cls_ID, tokens_ITE)
        two_RLH = packed(searcher, [31, 32, 33], cls_ID, tokens_ITE)
    assert torch.equal(one_RLH[0, 3:], two_RLH[0, 3:])
    assert not torch.equal(one_RLH[0, :3], two_RLH[0, :3])


def test_decoding_in_steps_gives_the_states_of_one_pass(searcher):
    cls_ID, tokens_ITE = pictures(2)
    ids_RL = torch.tensor([DOCUMENT])
    rows, cols = torch.zeros(2, dtype=torch.int64), torch.tensor([CONTEXT_COL, TARGET_COL])
    with torch.no_grad():
        whole_LH = one_document(searcher, DOCUMENT, cols.tolist(), cls_ID, tokens_ITE)
        embeddings_RLH = searcher.input_embeddings(ids_RL, rows, cols, cls_ID, tokens_ITE)
        cache = searcher.new_cache()
        parts = [
            searcher.decode_step(part_RLH, cache) for part_RLH in embeddings_RLH.split([7, 1, 1, len(DOCUMENT) - 9], 1)
        ]
    torch.testing.assert_close(torch.cat(parts, 1)[0], whole_LH, atol=1e-5, rtol=1e-5)
    assert cache.get_seq_length() == len(DOCUMENT)


def test_gradients_reach_every_part():
    searcher = tiny_searcher(CONFIG)
    cls_ID, tokens_ITE = pictures(2)
    hidden_LH = one_document(searcher, DOCUMENT, [CONTEXT_COL, TARGET_COL], cls_ID, tokens_ITE)
    query_d = searcher.query_embedding(hidden_LH[TARGET_COL - 1])
    loss = searcher.word_logits(hidden_LH).logsumexp(-1).sum()
    loss = loss + (searcher.gallery_embedding(cls_ID) @ query_d * searcher.scale)[1]
    loss.backward()
    for name, parameter in searcher.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_a_batch_without_images_gives_zero_gradients_not_none():
    searcher = tiny_searcher(CONFIG)
    hidden_LH = one_document(searcher, [1, 2, 3], [], *pictures(0))
    states_IH = searcher.image_states(hidden_LH[None], torch.zeros(0, dtype=torch.int64), torch.zeros(0).long())
    loss = searcher.word_logits(hidden_LH).logsumexp(-1).sum() + searcher.query_embedding(states_IH).sum()
    loss.backward()
    for name, parameter in searcher.named_parameters():
        if name not in ("log_scale", "gallery_head.weight"):
            assert parameter.grad is not None, name
            assert torch.isfinite(parameter.grad).all(), name
    assert searcher.perceiver.query_tokens_NW.grad.abs().sum() == 0


def test_the_frozen_language_model_trains_only_its_control_tokens():
    searcher = tiny_searcher(tiny_config(freeze_language=True))
    trained = {name for name, p in searcher.language.named_parameters() if p.requires_grad}
    assert trained == {"control_2H", "control_head_2H"}
    assert searcher.input_cls.weight.requires_grad
    assert searcher.perceiver.query_tokens_NW.requires_grad


def test_control_tokens_are_the_last_two_of_the_vocabulary(searcher):
    embeddings_RLH = searcher.language.embed(torch.tensor([[IMG, END_IMG, 4]]))
    assert torch.equal(embeddings_RLH[0, :2], searcher.language.control_2H)
    assert torch.equal(embeddings_RLH[0, 2], searcher.language.decoder.embed_tokens.weight[4])
    assert searcher.word_logits(embeddings_RLH).shape == (1, 3, V + 2)


def test_image_states_are_one_position_before_cls(searcher):
    hidden_RLH = torch.arange(2 * 5 * 3.0).reshape(2, 5, 3)
    states_IH = searcher.image_states(hidden_RLH, torch.tensor([0, 1]), torch.tensor([1, 4]))
    assert torch.equal(states_IH, torch.stack([hidden_RLH[0, 0], hidden_RLH[1, 3]]))


def test_embeddings_for_retrieval_are_unit_vectors(searcher):
    cls_ID, _ = pictures(3)
    gallery_Id = searcher.gallery_embedding(cls_ID)
    want_Id = cls_ID @ searcher.gallery_head.weight.T
    want_Id = want_Id / want_Id.norm(dim=-1, keepdim=True)
    torch.testing.assert_close(gallery_Id, want_Id)
    query_Id = searcher.query_embedding(torch.randn(3, 32))
    torch.testing.assert_close(query_Id.norm(dim=-1), torch.ones(3))


def test_the_scale_starts_at_one_over_tau_and_stays_under_its_bound(searcher):
    assert searcher.scale.item() == pytest.approx(1 / 0.07, rel=1e-6)
    other = tiny_searcher(CONFIG)
    other.log_scale.data.fill_(9.0)
    assert other.scale.item() == pytest.approx(100.0, rel=1e-5)


def test_the_scale_can_leave_its_bound_again_but_not_go_beyond():
    searcher = tiny_searcher(CONFIG)
    searcher.log_scale.data.fill_(math.log(100.0) + 0.5)
    searcher.scale.backward()  # descent wants a smaller scale
    assert searcher.log_scale.grad.item() > 0
    searcher.log_scale.grad = None
    (-searcher.scale).backward()  # descent wants a larger one
    assert searcher.log_scale.grad.item() == 0


def test_a_temperature_that_starts_above_its_bound_is_refused():
    with pytest.raises(ConfigError, match="max_log_scale"):
        CONFIG.replace(tau0=0.001)


def test_activation_checkpointing_changes_no_gradient():
    cls_ID, tokens_ITE = pictures(2)
    gradients = []
    for checkpointing in (False, True):
        searcher = tiny_searcher(CONFIG).train()
        if checkpointing:
            searcher.enable_activation_checkpointing()
        hidden_LH = one_document(searcher, DOCUMENT, [CONTEXT_COL, TARGET_COL], cls_ID, tokens_ITE)
        hidden_LH.square().sum().backward()
        gradients.append(searcher.language.decoder.layers[0].mlp.up_proj.weight.grad)
    torch.testing.assert_close(gradients[0], gradients[1])
