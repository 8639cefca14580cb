"""One step against a loop that is written out, and the losses of micro-batches against those of the whole."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from chatsearch.model.config import ObjectiveConfig
from chatsearch.model.queue import FeatureQueue
from chatsearch.testing.tiny import tiny_config, tiny_searcher
from chatsearch.train.step import MicroBatch, Targets, losses

IGNORE = -100
CONFIG = ObjectiveConfig(queue_size=12, image_weight=0.7)


@pytest.fixture(scope="module")
def searcher():
    return tiny_searcher(tiny_config(40))


def batch_of(searcher, rows: int = 2, length: int = 14, seed: int = 0) -> tuple[MicroBatch, torch.Tensor]:
    """One image a row at ``<CLS>`` position 4 + row; the first is wanted, the second is context. And the images' ids."""
    draw = torch.Generator().manual_seed(seed)
    vision = searcher.config.vision
    labels = torch.randint(0, 40, (rows, length), generator=draw)
    labels[:, ::3] = IGNORE
    batch = MicroBatch(
        input_ids_RL=torch.randint(0, 42, (rows, length), generator=draw),
        labels_RL=labels,
        position_ids_RL=torch.arange(length).expand(rows, length),
        image_row_I=torch.arange(rows),
        image_col_I=4 + torch.arange(rows),
        image_target_I=torch.arange(rows) % 2 == 0,
        image_first_I=torch.zeros(rows, dtype=torch.bool),
        image_read_I=torch.ones(rows, dtype=torch.bool),
        candidate_I=torch.arange(rows),
        cls_ID=torch.randn(rows, vision.feature_dim, generator=draw),
        tokens_IKE=torch.randn(rows, vision.num_tokens, vision.token_dim, generator=draw),
    )
    return batch, torch.arange(rows) + 100 * seed


def with_candidates(batch: MicroBatch, ids: torch.Tensor):
    queue = FeatureQueue(CONFIG.queue_size, batch.cls_ID.shape[1])
    queue.enqueue(
        torch.randn(3, batch.cls_ID.shape[1], generator=torch.Generator().manual_seed(9)), torch.arange(900, 903)
    )
    candidates = queue.enqueue(batch.cls_ID, ids)
    return replace(batch, candidate_I=candidates.slots_N), candidates


def count(batch: MicroBatch) -> Targets:
    return Targets(words=(batch.labels_RL != IGNORE).sum(), images=batch.image_target_I.sum())


def test_the_loss_is_the_one_of_the_equations_written_out(searcher) -> None:
    batch, ids = batch_of(searcher)
    batch, candidates = with_candidates(batch, ids)
    got = losses(searcher, batch, candidates, count(batch), CONFIG)

    with torch.no_grad():
        hidden = searcher(
            batch.input_ids_RL,
            batch.position_ids_RL,
            image_row_I=batch.image_row_I,
            image_col_I=batch.image_col_I,
            cls_ID=batch.cls_ID,
            tokens_ITE=batch.tokens_IKE,
        )
    word, num_words = 0.0, 0
    for row in range(2):
        for position in range(14):
            wanted = int(batch.labels_RL[row, position])
            if wanted != IGNORE:
                word -= torch.log_softmax(searcher.word_logits(hidden[row, position]), dim=0)[wanted].item()
                num_words += 1
    query = searcher.query_embedding(hidden[0, 4 - 1])
    scores = [(query @ searcher.gallery_embedding(feature)).item() / 0.07 for feature in candidates.features_CD[:5]]
    own = int(batch.candidate_I[0])
    image = math.log(sum(math.exp(score) for score in scores)) - scores[own]

    assert float(got["word"]) == pytest.approx(word, rel=1e-5)
    assert float(got["image"]) == pytest.approx(image, rel=1e-5)
    assert got["loss"].item() == pytest.approx(word / num_words + 0.7 * image, rel=1e-5)


def test_shares_of_micro_batches_add_up_in_value_and_gradient(searcher) -> None:
    parts = [batch_of(searcher, seed=seed) for seed in (1, 2)]
    queue = FeatureQueue(CONFIG.queue_size, parts[0][0].cls_ID.shape[1])
    candidates = queue.enqueue(torch.cat([b.cls_ID for b, _ in parts]), torch.cat([ids for _, ids in parts]))
    halves = [
        replace(batch, candidate_I=slots) for (batch, _), slots in zip(parts, candidates.slots_N.split(2), strict=True)
    ]
    whole = MicroBatch(
        **{
            name: torch.cat([getattr(half, name) for half in halves])
            for name in MicroBatch.__slots__
            if name != "image_row_I"
        },
        image_row_I=torch.arange(4),
    )
    targets = count(whole)

    def gradient(batches: list[MicroBatch]) -> tuple[float, torch.Tensor]:
        searcher.zero_grad()
        total = 0.0
        for batch in batches:
            loss = losses(searcher, batch, candidates, targets, CONFIG)["loss"]
            loss.backward()
            total += float(loss.detach())
        return total, torch.cat([p.grad.flatten() for p in searcher.parameters() if p.grad is not None])

    once, split = gradient([whole]), gradient(halves)
    assert split[0] == pytest.approx(once[0], rel=1e-5)
    torch.testing.assert_close(split[1], once[1], rtol=1e-4, atol=1e-6)


def test_a_step_without_any_target_is_zero_and_touches_every_parameter(searcher) -> None:
    batch, ids = batch_of(searcher)
    batch = replace(
        batch, labels_RL=torch.full_like(batch.labels_RL, IGNORE), image_target_I=torch.zeros(2, dtype=torch.bool)
    )
    batch, candidates = with_candidates(batch, ids)
    searcher.zero_grad()
    got = losses(searcher, batch, candidates, count(batch), CONFIG)
    got["loss"].backward()
    assert got["loss"].item() == 0.0
    assert all(p.grad is None or bool((p.grad == 0).all()) for p in searcher.parameters())


def test_the_step_changes_nothing(searcher) -> None:
    batch, ids = batch_of(searcher)
    batch, candidates = with_candidates(batch, ids)
    before = {name: tensor.clone() for name, tensor in searcher.state_dict().items()}
    queue_before = candidates.features_CD.clone()
    first, second = (losses(searcher, batch, candidates, count(batch), CONFIG) for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert all(torch.equal(before[name], tensor) for name, tensor in searcher.state_dict().items())
    assert torch.equal(candidates.features_CD, queue_before)


def test_a_picture_that_nothing_reads_is_asked_for_as_if_its_block_stood_there(searcher) -> None:
    """Row 0 ends at its ``[IMG]``, as the last columns do; its slots would lie beyond the row."""
    whole, ids = batch_of(searcher)
    whole, candidates = with_candidates(replace(whole, labels_RL=torch.full_like(whole.labels_RL, IGNORE)), ids)
    whole = replace(whole, image_row_I=torch.tensor([0, 1]), image_col_I=torch.tensor([6, 4]))
    ended = replace(
        whole,
        input_ids_RL=whole.input_ids_RL[:, :6],
        labels_RL=whole.labels_RL[:, :6],
        position_ids_RL=whole.position_ids_RL[:, :6],
        image_read_I=torch.zeros(2, dtype=torch.bool),
    )
    whole = replace(whole, image_target_I=torch.tensor([True, False]))
    ended = replace(ended, image_target_I=whole.image_target_I)
    got = []
    for batch in (whole, ended):
        searcher.zero_grad()
        loss = losses(searcher, batch, candidates, count(batch), CONFIG)["loss"]
        loss.backward()
        assert all(p.grad is not None for p in searcher.parameters() if p.requires_grad), (
            "ranks reduce the same tensors"
        )
        got.append((loss.item(), searcher.query_head.weight.grad.clone()))
    assert got[0][0] > 0
    assert got[1][0] == pytest.approx(got[0][0], rel=1e-5)
    torch.testing.assert_close(got[1][1], got[0][1], rtol=1e-4, atol=1e-7)
