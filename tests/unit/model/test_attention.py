"""Attention within packed documents: every kernel against the dense mask, against documents alone, and against leaks.

varlen needs a GPU. Its operator gets a plain loop here as its CPU kernel, so that all around it runs: bounds, layout,
grouped heads, and the operator's own autograd formula.
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from chatsearch.errors import ConfigError
from chatsearch.model.attention import choose, document_inputs, document_starts
from chatsearch.model.bucketed import Buckets
from chatsearch.testing.tiny import tiny_config, tiny_searcher
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.attention import varlen

CONFIG = tiny_config()
HIDDEN = CONFIG.language.hidden_size
LENGTH = 48
KERNELS = ("sdpa", "flex", "varlen", "buckets")

packs = st.lists(st.lists(st.integers(2, 30), min_size=1, max_size=6), min_size=1, max_size=3).map(
    lambda rows: [[n for number, n in enumerate(row) if sum(row[: number + 1]) <= LENGTH] for row in rows]
)
"""Lengths of the documents of each row; the rest of a row is padding."""


def loop(query, key, value, bounds, scale):
    """Causal attention of one document at a time."""
    groups = query.shape[1] // key.shape[1]
    parts = []
    for start, end in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
        q, k, v = (x[start:end].transpose(0, 1) for x in (query, key, value))
        k, v = (x.repeat_interleave(groups, 0) for x in (k, v))
        parts.append(F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale).transpose(0, 1))
    return torch.cat(parts)


def loop_gradients(grad, query, key, value, bounds, scale):  # noqa: PLR0917
    """Of :func:`loop`, by the chain rule: an operator's kernel runs below autograd."""
    groups = query.shape[1] // key.shape[1]
    found = []
    for start, end in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
        g, q, k, v = (x[start:end].transpose(0, 1) for x in (grad, query, key, value))
        k, v = (x.repeat_interleave(groups, 0) for x in (k, v))
        hidden = torch.ones(end - start, end - start, dtype=torch.bool).triu(1)
        p = (q @ k.mT * scale).masked_fill(hidden, float("-inf")).softmax(-1)
        p_grad = g @ v.mT
        s_grad = p * (p_grad - (p_grad * p).sum(-1, keepdim=True)) * scale
        parts = [s_grad @ k, *(x.unflatten(0, (-1, groups)).sum(1) for x in (s_grad.mT @ q, p.mT @ g))]
        found.append([part.transpose(0, 1) for part in parts])
    return tuple(torch.cat(parts) for parts in zip(*found, strict=True))


@pytest.fixture(scope="module", autouse=True)
def _varlen_on_cpu():
    @varlen._varlen_attn.register_kernel("cpu")
    def _(q, k, v, bounds, _k, _mq, _mk, is_causal, scale, *_rest):  # noqa: PLR0917
        assert is_causal
        return loop(q, k, v, bounds, scale), q.new_empty(q.shape[1], len(q)), torch.zeros(2, dtype=torch.uint64)

    @varlen._varlen_attn_backward.register_kernel("cpu")
    def _(grad, q, k, v, _out, _lse, bounds, _k, _mq, _mk, _causal, _rng, scale, *_rest):  # noqa: PLR0917
        return loop_gradients(grad, q, k, v, bounds, scale)


@pytest.fixture(scope="module")
def language():
    return tiny_searcher(CONFIG).language


def positions(rows: list[list[int]]) -> Tensor:
    made = [[place for length in row for place in range(length)] for row in rows]
    return torch.tensor([row + [0] * (LENGTH - len(row)) for row in made])


def spans(rows: list[list[int]]) -> list[tuple[int, slice]]:
    return [(r, slice(sum(row[:n]), sum(row[: n + 1]))) for r, row in enumerate(rows) for n in range(len(row))]


def embeddings(num_rows: int, seed: int = 0) -> Tensor:
    return torch.randn(num_rows, LENGTH, HIDDEN, generator=torch.Generator().manual_seed(seed))


def states(language, kernel: str, x_RLH: Tensor, position_ids_RL: Tensor) -> Tensor:
    return language.decoder(
        inputs_embeds=x_RLH, position_ids=position_ids_RL, use_cache=False, **document_inputs(kernel, position_ids_RL)
    ).last_hidden_state


@given(packs)
@settings(max_examples=20)
def test_every_kernel_gives_the_states_of_documents_alone(language, rows) -> None:
    x_RLH = embeddings(len(rows))
    with torch.no_grad():
        got = {kernel: states(language, kernel, x_RLH, positions(rows)) for kernel in KERNELS}
        for row, span in spans(rows):
            alone = language(x_RLH[row, span][None], torch.arange(span.stop - span.start)[None])[0]
            for kernel in KERNELS:
                torch.testing.assert_close(got[kernel][row, span], alone, rtol=1e-5, atol=1e-5, msg=kernel)
    assert all(torch.isfinite(got[kernel]).all() for kernel in KERNELS)


@given(packs)
@settings(max_examples=20)
def test_a_neighbour_changes_nothing_at_all(language, rows) -> None:
    x_RLH, places = embeddings(len(rows)), spans(rows)
    row, span = places[len(places) // 2]
    other_RLH = x_RLH.clone()
    other_RLH[row, span] += 1.0
    with torch.no_grad():
        for kernel in KERNELS:
            before, after = (states(language, kernel, x, positions(rows)) for x in (x_RLH, other_RLH))
            assert not torch.equal(before[row, span], after[row, span])
            for r, s in places:
                assert (r, s) == (row, span) or torch.equal(before[r, s], after[r, s]), kernel


@given(packs)
@settings(max_examples=10)
def test_other_kernels_have_the_gradients_of_the_dense_mask(language, rows) -> None:
    weights = list(language.decoder.layers.parameters())
    gradients = []
    for kernel in ("sdpa", "varlen", "buckets"):
        x_RLH = embeddings(len(rows)).requires_grad_()
        hidden_RLH = states(language, kernel, x_RLH, positions(rows))
        loss = sum(hidden_RLH[row, span].sin().sum() for row, span in spans(rows))
        gradients.append(torch.autograd.grad(loss, [x_RLH, *weights]))
    for wanted, *found in zip(*gradients, strict=True):
        for got in found:
            torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kernel", ["flex", "varlen", "buckets"])
def test_under_autocast_every_kernel_rounds_like_the_dense_mask(language, kernel) -> None:
    rows = [[7, 20, 9], [30, 18]]
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        want, got = (states(language, k, embeddings(2), positions(rows)) for k in ("sdpa", kernel))
    for row, span in spans(rows):
        torch.testing.assert_close(got[row, span], want[row, span], rtol=0.05, atol=0.05)


@given(packs)
def test_documents_begin_where_positions_restart_and_padding_is_one(rows) -> None:
    starts_RL = document_starts(positions(rows))
    for row, got_L in zip(rows, starts_RL, strict=True):
        ends = [sum(row[:number]) for number in range(len(row) + 1)]
        assert got_L.nonzero().flatten().tolist() == [end for end in ends if end < LENGTH]


def test_a_row_of_padding_alone_is_one_document() -> None:
    assert document_starts(torch.zeros(2, 5, dtype=torch.int64)).sum(1).tolist() == [1, 1]


def test_the_block_mask_leaves_out_blocks_without_a_pair() -> None:
    # Four documents of one block each: the diagonal is left of the ten blocks on and below it.
    mask = document_inputs("flex", torch.arange(128).repeat(4)[None])["attention_mask"]
    assert int(mask.kv_num_blocks.sum() + mask.full_kv_num_blocks.sum()) == 4


def test_varlen_hands_over_bounds_and_a_rounded_length() -> None:
    inputs = document_inputs("varlen", positions([[10, 30], [48]]))
    assert inputs["attention_mask"].flatten().tolist() == [0, 10, 40, 48, 96]
    assert inputs["attention_mask"].dtype == torch.int32
    assert inputs["max_length_q"] == 128


@given(st.lists(st.integers(1, 3000), min_size=1, max_size=12))
def test_buckets_hold_every_position_once_and_waste_little(lengths) -> None:
    bounds_N1 = torch.tensor([0, *lengths]).cumsum(0)
    buckets = Buckets.of(bounds_N1)
    num_places = sum(documents * width for documents, width in buckets.shapes)
    assert len(buckets.position_M) == len(buckets.kept_M) == num_places
    assert sum(documents for documents, _ in buckets.shapes) == len(lengths)
    assert torch.equal(buckets.position_M[buckets.place_P], torch.arange(sum(lengths)))
    assert buckets.kept_M[buckets.place_P].all()
    assert int(buckets.kept_M.sum()) == sum(lengths)
    assert num_places <= sum(max(length + 15, 1.25 * length) for length in lengths)


def test_on_a_cpu_auto_are_buckets() -> None:
    for dtype in (torch.float32, torch.bfloat16):
        assert choose("auto", torch.device("cpu"), dtype) == "buckets"


def test_a_kernel_that_does_not_run_here_is_refused_with_what_to_set() -> None:
    with pytest.raises(ConfigError, match=r"attention=varlen .* auto or sdpa"):
        choose("varlen", torch.device("cpu"), torch.bfloat16)
    with pytest.raises(ConfigError, match="no gradient on a CPU"):
        choose("flex", torch.device("cpu"), torch.float32)
    with torch.no_grad():
        assert choose("flex", torch.device("cpu"), torch.float32) == "flex"


def test_the_setting_reaches_a_pass(language) -> None:
    other = tiny_searcher(CONFIG).language
    other.attention = "varlen"
    with pytest.raises(ConfigError, match="attention=varlen"):
        other(embeddings(1), positions([[48]]))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("kernel", ["flex", "varlen"])
def test_on_a_gpu_states_and_gradients_are_those_of_the_dense_mask(kernel) -> None:
    language = tiny_searcher(CONFIG).language.to("cuda", torch.bfloat16)
    rows = [[7, 20, 9], [30, 18]]
    found = []
    for name in ("sdpa", kernel):
        x_RLH = embeddings(2).to("cuda", torch.bfloat16).requires_grad_()
        hidden_RLH = states(language, name, x_RLH, positions(rows).cuda())
        documents = torch.cat([hidden_RLH[row, span] for row, span in spans(rows)])
        found.append((documents, *torch.autograd.grad(documents.float().sin().sum(), [x_RLH])))
    for want, got in zip(*found, strict=True):
        torch.testing.assert_close(got, want, rtol=0.05, atol=0.05)
