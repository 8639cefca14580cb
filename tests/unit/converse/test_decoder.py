"""Cached decoding equals recomputing everything; text comes in whole characters; modes and lengths hold."""

import pytest
import torch
from chatsearch.converse.config import AnswerOptions
from chatsearch.converse.decoder import Decoder, Query, Stop, Word
from chatsearch.converse.pictures import PictureFeatures
from chatsearch.converse.prompt import Prompt, build_prompt
from chatsearch.converse.text import TextStream
from chatsearch.errors import LimitExceededError
from chatsearch.testing.tiny import tiny_config, tiny_searcher, tiny_tokenizer
from chatsearch.types import Role, Segment
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

TOKENIZER = tiny_tokenizer()
CONFIG = tiny_config(TOKENIZER.text_vocab_size)
SEARCHER = tiny_searcher(CONFIG)
OPTIONS = AnswerOptions()
# What an answer in words never holds.
FORBIDDEN = (TOKENIZER.control_ids | {TOKENIZER.end_img_id, TOKENIZER.img_id}) - {TOKENIZER.eos_id}

CONTEXT = (
    Segment(image="first", role=Role.USER),
    Segment(text="the fruit in this picture, but green", role=Role.USER),
    Segment(image="second", role=Role.ASSISTANT),
    Segment(text="darker, please", role=Role.USER),
)


def features(num_images: int, seed: int = 0) -> PictureFeatures:
    generator = torch.Generator().manual_seed(seed)
    vision = CONFIG.vision
    return PictureFeatures(
        torch.randn(num_images, vision.feature_dim, generator=generator),
        torch.randn(num_images, vision.num_tokens, vision.token_dim, generator=generator),
    )


def prompt_of(*segments: Segment, max_positions: int = 512) -> Prompt:
    return build_prompt(segments, TOKENIZER, CONFIG.num_queries, max_positions=max_positions)


def hidden_from_scratch(prompt: Prompt, pictures: PictureFeatures, tokens: list[int]) -> torch.Tensor:
    """Last hidden state of prompt and tokens, all positions computed in one pass as in training."""
    ids = torch.tensor([[*prompt.input_ids, *tokens]])
    columns = torch.tensor(prompt.image_positions, dtype=torch.long)
    with torch.inference_mode():
        return SEARCHER(
            ids,
            torch.arange(ids.shape[1])[None],
            image_row_I=torch.zeros_like(columns),
            image_col_I=columns,
            cls_ID=pictures.cls_ID,
            tokens_ITE=pictures.tokens_ITE,
        )[0, -1]


def test_cached_decoding_equals_recomputing_everything() -> None:
    prompt, pictures = prompt_of(*CONTEXT), features(2)
    decoder = Decoder(SEARCHER, TOKENIZER)
    options = AnswerOptions(retrieve="never")
    words = [
        f.token
        for f in decoder.decode(prompt, pictures, options, force_retrieval=False, max_new=24)
        if isinstance(f, Word)
    ]
    assert len(words) > 8, "the seeded tiny model talks long enough to mean something"
    cache = SEARCHER.new_cache()
    with torch.inference_mode():
        state = SEARCHER.decode_step(decoder.embed(prompt, pictures), cache)[0, -1]
        for at, word in enumerate(words):
            fresh = hidden_from_scratch(prompt, pictures, words[:at])
            logits, fresh_logits = SEARCHER.word_logits(state), SEARCHER.word_logits(fresh)
            assert torch.allclose(logits, fresh_logits, atol=1e-5)
            fresh_logits[sorted(FORBIDDEN)] = -torch.inf
            assert word == int(fresh_logits.argmax())
            state = SEARCHER.decode_step(SEARCHER.language.embed(torch.tensor([[word]])), cache)[0, -1]


def test_a_forced_query_is_the_state_at_img_and_unit_length() -> None:
    prompt, pictures = prompt_of(*CONTEXT), features(2)
    (found,) = Decoder(SEARCHER, TOKENIZER).decode(prompt, pictures, OPTIONS, force_retrieval=True, max_new=5)
    assert isinstance(found, Query)
    assert found.forced
    with torch.inference_mode():
        expected = SEARCHER.query_embedding(hidden_from_scratch(prompt, pictures, [TOKENIZER.img_id]))
    assert torch.allclose(torch.from_numpy(found.embedding_d), expected, atol=1e-5)
    assert float((found.embedding_d**2).sum()) == pytest.approx(1.0, abs=1e-5)


def test_a_context_picture_moves_the_query() -> None:
    prompt = prompt_of(*CONTEXT)
    decoder = Decoder(SEARCHER, TOKENIZER)
    (one,) = decoder.decode(prompt, features(2, seed=1), OPTIONS, force_retrieval=True, max_new=5)
    (two,) = decoder.decode(prompt, features(2, seed=2), OPTIONS, force_retrieval=True, max_new=5)
    assert isinstance(one, Query)
    assert isinstance(two, Query)
    assert abs(one.embedding_d - two.embedding_d).max() > 1e-4


@pytest.fixture
def eager() -> Decoder:
    """A model that would answer every question with [IMG]: its row of the word head points along every state."""
    searcher = tiny_searcher(CONFIG)
    with torch.no_grad():
        searcher.language.head_VH.zero_()
        searcher.language.control_head_2H[1] = 0.0
        state = searcher.decode_step(
            Decoder(searcher, TOKENIZER).embed(prompt_of(*CONTEXT[1:2]), features(0)), searcher.new_cache()
        )[0, -1]
        searcher.language.control_head_2H[0] = state
    return Decoder(searcher, TOKENIZER)


def test_the_model_may_decide_to_retrieve_and_never_means_never(eager: Decoder) -> None:
    prompt = prompt_of(*CONTEXT[1:2])
    (free,) = eager.decode(prompt, features(0), OPTIONS, force_retrieval=False, max_new=5)
    assert isinstance(free, Query)
    assert not free.forced
    never = AnswerOptions(retrieve="never")
    found = list(eager.decode(prompt, features(0), never, force_retrieval=False, max_new=5))
    assert not any(isinstance(f, Query) for f in found)


def test_an_answer_ends_by_length_and_sampling_repeats_by_seed() -> None:
    prompt = prompt_of(*CONTEXT[1:2])
    decoder = Decoder(SEARCHER, TOKENIZER)

    def sample(seed: int) -> list:
        options = AnswerOptions(retrieve="never", temperature=1.0, seed=seed)
        return list(decoder.decode(prompt, features(0), options, force_retrieval=False, max_new=12))

    assert sample(1) == sample(1)
    assert len({tuple(map(repr, sample(seed))) for seed in range(4)}) > 1
    assert isinstance(sample(1)[-1], Stop)
    assert list(decoder.decode(prompt, features(0), OPTIONS, force_retrieval=False, max_new=0)) == [Stop("length")]


def test_no_answer_contains_control_tokens() -> None:
    decoder = Decoder(SEARCHER, TOKENIZER)
    for seed in range(8):
        options = AnswerOptions(retrieve="never", temperature=5.0, seed=seed)
        found = decoder.decode(prompt_of(*CONTEXT[1:2]), features(0), options, force_retrieval=False, max_new=40)
        assert not FORBIDDEN & {f.token for f in found if isinstance(f, Word)}


def test_a_prompt_counts_blocks_and_refuses_what_is_too_long() -> None:
    prompt = prompt_of(*CONTEXT)
    assert prompt.image_hashes == ("first", "second")
    for position in prompt.image_positions:
        assert prompt.input_ids[position - 1] == TOKENIZER.img_id
        assert prompt.input_ids[position + CONFIG.num_queries + 1] == TOKENIZER.end_img_id
    with pytest.raises(LimitExceededError, match=f"takes {len(prompt)} positions.*limit is {len(prompt) - 1}"):
        prompt_of(*CONTEXT, max_positions=len(prompt) - 1)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.text(min_size=1))
def test_text_deltas_are_whole_characters_and_join_to_the_text(text: str) -> None:
    stream = TextStream(TOKENIZER)
    tokens = TOKENIZER.encode(text, continues=True)
    deltas = [stream.push(token) for token in tokens]
    assert all("�" not in delta for delta in deltas) or "�" in text
    assert "".join([*deltas, stream.finish()]) == TOKENIZER.decode(tokens).removeprefix(" ")


@given(st.lists(st.integers(0, TOKENIZER.text_vocab_size - 1), max_size=30))
def test_any_tokens_at_all_give_encodable_deltas_that_join_to_the_decoded_text(tokens: list[int]) -> None:
    stream = TextStream(TOKENIZER)
    deltas = [*(stream.push(token) for token in tokens), stream.finish()]
    for delta in deltas:
        delta.encode("utf-8")
    assert "".join(deltas) == TOKENIZER.decode(tokens).removeprefix(" ")
