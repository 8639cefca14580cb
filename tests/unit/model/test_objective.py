"""Equations 1 to 3 against loops in plain Python; section 8, check 2."""

import math

import pytest
import torch
from chatsearch.model.config import ObjectiveConfig
from chatsearch.model.objective import IGNORE, combine, image_loss, image_losses, word_loss
from chatsearch.model.queue import FeatureQueue
from hypothesis import given, settings
from hypothesis import strategies as st


def reference_image_loss(similarity, positive, scale, *, ids, valid, strict):
    """Equation 3 by hand."""
    out = []
    for row, p in zip(similarity, positive, strict=True):
        total = 0.0
        for j, s in enumerate(row):
            copy = ids[j] == ids[p] and j != p and not strict
            if valid[j] and not copy:
                total += math.exp(scale * (s - row[p]))
        out.append(math.log(total))
    return out


@settings(max_examples=80, deadline=None)
@given(data=st.data(), strict=st.booleans(), scale=st.floats(0.5, 100.0))
def test_image_loss_equals_the_loop(data, strict, scale):
    num_candidates = data.draw(st.integers(1, 9))
    num_targets = data.draw(st.integers(0, 5))
    valid = data.draw(st.lists(st.booleans(), min_size=num_candidates, max_size=num_candidates))
    valid[data.draw(st.integers(0, num_candidates - 1))] = True
    ids = [data.draw(st.integers(0, 4)) if v else -1 for v in valid]
    filled = [j for j, v in enumerate(valid) if v]
    positive = [data.draw(st.sampled_from(filled)) for _ in range(num_targets)]
    seed = data.draw(st.integers(0, 1000))
    similarity_TC = torch.rand(num_targets, num_candidates, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    got_T = image_losses(
        similarity_TC,
        torch.tensor(positive, dtype=torch.int64),
        torch.tensor(scale),
        ids_C=torch.tensor(ids),
        valid_C=torch.tensor(valid),
        strict_negatives=strict,
    )
    want = reference_image_loss(similarity_TC.tolist(), positive, scale, ids=ids, valid=valid, strict=strict)
    assert got_T.tolist() == pytest.approx(want, rel=1e-4, abs=1e-4)


@pytest.mark.parametrize("num_candidates", [1, 7, 1000])
def test_equal_similarities_give_the_logarithm_of_the_queue_size(num_candidates):
    losses_T = image_losses(
        torch.full((3, num_candidates), 0.3),
        torch.zeros(3, dtype=torch.int64),
        torch.tensor(1 / 0.07),
        ids_C=torch.arange(num_candidates),
        valid_C=torch.ones(num_candidates, dtype=torch.bool),
    )
    assert losses_T.tolist() == pytest.approx([math.log(num_candidates)] * 3, abs=1e-6)


def test_a_perfect_positive_costs_nothing_as_the_temperature_goes_to_zero():
    similarity_TC = torch.tensor([[0.9, 1.0, -1.0]])
    losses = [
        image_losses(
            similarity_TC,
            torch.tensor([1]),
            torch.tensor(1 / tau),
            ids_C=torch.arange(3),
            valid_C=torch.ones(3, dtype=torch.bool),
        ).item()
        for tau in (1.0, 0.1, 0.01, 0.001)
    ]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 1e-6


def units(count, seed):
    return torch.nn.functional.normalize(torch.randn(count, 4, generator=torch.Generator().manual_seed(seed)), dim=-1)


def targets(first, **settings_):
    queue = FeatureQueue(6, 4)
    candidates = queue.enqueue(units(3, 5), torch.tensor([1, 2, 3]))
    return image_loss(
        units(len(first), 1),
        candidates.features_CD,
        candidates.slots_N[: len(first)],
        torch.tensor(first, dtype=torch.bool),
        torch.tensor(10.0),
        ids_C=candidates.ids_C,
        valid_C=candidates.valid_C,
        config=ObjectiveConfig(**settings_),
    )


def test_images_with_nothing_before_them_are_logged_apart_and_can_be_skipped():
    both = targets([True, False])
    skipped = targets([True, False], skip_first_images=True)
    assert both.wanted.count == 2
    assert both.first.count == skipped.first.count == skipped.wanted.count == 1
    torch.testing.assert_close(both.wanted.total, skipped.wanted.total + both.first.total)


def test_empty_slots_do_not_stand_in_the_denominator():
    # Zero vectors in empty slots would add exp(0) each.
    queue = FeatureQueue(500, 4)
    candidates = queue.enqueue(units(1, 5), torch.tensor([1]))
    loss = image_loss(
        units(1, 1),
        candidates.features_CD,
        candidates.slots_N,
        torch.tensor([False]),
        torch.tensor(10.0),
        ids_C=candidates.ids_C,
        valid_C=candidates.valid_C,
        config=ObjectiveConfig(),
    )
    assert loss.wanted.total.item() == pytest.approx(0.0, abs=1e-6)
    assert loss.num_correct == 1


@settings(max_examples=30, deadline=None)
@given(data=st.data(), chunk=st.integers(1, 6))
def test_word_loss_equals_the_loop_whatever_the_chunk(data, chunk):
    labels = data.draw(st.lists(st.one_of(st.just(IGNORE), st.integers(0, 6)), min_size=1, max_size=15))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 99)))
    head_VH = torch.randn(7, 3, generator=generator)
    hidden_PH = torch.randn(len(labels), 3, generator=generator, requires_grad=True)
    got = word_loss(hidden_PH, torch.tensor(labels), lambda h: h @ head_VH.T, positions_per_chunk=chunk)
    want = torch.zeros(())
    for hidden_H, label in zip(hidden_PH, labels, strict=True):
        if label != IGNORE:
            want = want - torch.log_softmax(head_VH @ hidden_H, 0)[label]
    torch.testing.assert_close(got.total, want, rtol=1e-5, atol=1e-5)
    assert got.count == sum(label != IGNORE for label in labels)
    (grad_got,) = torch.autograd.grad(got.total, hidden_PH)
    grad_want = torch.zeros_like(hidden_PH)
    if want.requires_grad:
        (grad_want,) = torch.autograd.grad(want, hidden_PH)
    torch.testing.assert_close(grad_got, grad_want, rtol=1e-4, atol=1e-5)


def test_only_labelled_positions_are_projected():
    seen = []

    def logits(hidden_nH):
        seen.append(len(hidden_nH))
        return hidden_nH

    labels_RL = torch.full((4, 50), IGNORE)
    labels_RL[1, 7] = 2
    labels_RL[3, 9] = 0
    word_loss(torch.randn(4, 50, 3), labels_RL, logits)
    assert seen == [2]


@pytest.mark.parametrize("reduction", ["mean", "token_sum"])
def test_a_step_without_targets_costs_zero_not_nan_and_keeps_the_graph(reduction):
    config = ObjectiveConfig(reduction=reduction)
    hidden_PH = torch.randn(3, 4, requires_grad=True)
    words = word_loss(hidden_PH, torch.full((3,), IGNORE), lambda h: h)
    images = image_loss(
        torch.nn.functional.normalize(hidden_PH[:0], dim=-1),
        torch.zeros(5, 4),
        torch.zeros(0, dtype=torch.int64),
        torch.zeros(0, dtype=torch.bool),
        torch.tensor(10.0),
        ids_C=torch.full((5,), -1),
        valid_C=torch.zeros(5, dtype=torch.bool),
        config=config,
    )
    loss = combine(words.total, images.wanted.total, words.count, images.wanted.count, config)
    loss.backward()
    assert loss.item() == 0.0
    assert words.mean().item() == images.wanted.mean().item() == 0.0
    assert torch.equal(hidden_PH.grad, torch.zeros(3, 4))


def test_the_two_reductions():
    words, images = torch.tensor(12.0), torch.tensor(6.0)
    counts = torch.tensor(6), torch.tensor(2)
    assert combine(words, images, *counts, ObjectiveConfig(image_weight=0.5)).item() == pytest.approx(2 + 0.5 * 3)
    literal = ObjectiveConfig(reduction="token_sum", image_weight=0.5)
    assert combine(words, images, *counts, literal).item() == pytest.approx(18 / 8)


@pytest.mark.parametrize("reduction", ["mean", "token_sum"])
def test_micro_batches_with_global_counts_add_up_to_the_step(reduction):
    config = ObjectiveConfig(reduction=reduction)
    hidden_PH, labels_P = torch.randn(10, 7), torch.randint(0, 7, (10,))
    labels_P[3] = IGNORE
    whole = word_loss(hidden_PH, labels_P, lambda h: h)
    image_total, image_count = torch.tensor([1.5, 0.0, 2.5]), torch.tensor(4)
    want = combine(whole.total, image_total.sum(), whole.count, image_count, config)
    parts = [
        combine(word_loss(h, labels, lambda x: x).total, image, whole.count, image_count, config)
        for h, labels, image in zip(hidden_PH.split([2, 5, 3]), labels_P.split([2, 5, 3]), image_total, strict=True)
    ]
    torch.testing.assert_close(sum(parts), want)
