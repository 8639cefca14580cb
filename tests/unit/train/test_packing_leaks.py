"""No leak between packed samples (T3): 1,000 random packs through the losses that training uses, words and pictures.

A sample's loss is what ``losses`` gives when the targets of all other samples are taken away: the inputs stay as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from chatsearch.data.example import IGNORED, Example, assemble
from chatsearch.data.pack import Batch, pack
from chatsearch.data.template import Piece
from chatsearch.model.config import ObjectiveConfig
from chatsearch.model.queue import Candidates, FeatureQueue
from chatsearch.model.searcher import ChatSearcher
from chatsearch.testing.tiny import tiny_config, tiny_searcher
from chatsearch.train.step import MicroBatch, Targets, losses
from torch import Tensor

NUM_PACKS = 1000
WORDS = 40
LENGTH = 96
CONFIG = ObjectiveConfig(queue_size=12, image_weight=0.7)
ONE = Targets(words=torch.tensor(1), images=torch.tensor(1))
"""Losses as sums: nothing is divided by what other samples hold."""


@dataclass(frozen=True)
class Ids:
    img_id: int = WORDS
    end_img_id: int = WORDS + 1
    bos_id: int = 1
    pad_id: int = 0


@dataclass(frozen=True)
class Pack:
    """Some samples, packed; and what stands for their pictures and the queue."""

    examples: Sequence[Example]
    batch: Batch
    cls_ID: Tensor
    tokens_IKE: Tensor
    candidates: Candidates


@pytest.fixture(scope="module")
def searcher():
    torch.set_num_threads(1)
    return tiny_searcher(tiny_config(WORDS))


def random_pack(searcher: ChatSearcher, number: int) -> Pack:
    draw = np.random.default_rng(number)
    examples: list[Example] = []
    for sample in range(int(draw.integers(2, 6))):
        pieces = [Piece((1, 3 + sample), loss=False)]
        for part in range(int(draw.integers(1, 5))):
            if draw.random() < 0.4:
                pieces.append(Piece(image=f"{1000 * sample + part:016x}", loss=bool(draw.random() < 0.7)))
            ids = tuple(draw.integers(3, WORDS, int(draw.integers(1, 7))).tolist())
            pieces.append(Piece(ids, loss=bool(draw.random() < 0.8)))
        examples.append(assemble(f"sample-{sample}", pieces, Ids(), searcher.config.num_queries))  # type: ignore[arg-type]
    batch = pack(examples, range(len(examples)), length=LENGTH, pad_id=0)
    vision, generator = searcher.config.vision, torch.Generator().manual_seed(number)
    cls_ID = torch.randn(batch.num_images, vision.feature_dim, generator=generator)
    tokens_IKE = torch.randn(batch.num_images, vision.num_tokens, vision.token_dim, generator=generator)
    queue = FeatureQueue(CONFIG.queue_size, vision.feature_dim)
    queue.enqueue(torch.randn(5, vision.feature_dim, generator=generator), torch.arange(10**6, 10**6 + 5))
    candidates = queue.enqueue(cls_ID, torch.arange(batch.num_images))
    return Pack(examples, batch, cls_ID, tokens_IKE, candidates)


def spans(batch: Batch, sample: int, examples: Sequence[Example]) -> tuple[int, slice]:
    """Row and positions of a sample, found by its ids: the second is its number."""
    for row, documents in enumerate(batch.document_ids):
        for document in range(int(documents.max()) + 1):
            places = np.flatnonzero(documents == document)
            if np.array_equal(batch.input_ids[row, places], examples[sample].input_ids):
                return row, slice(int(places[0]), int(places[-1]) + 1)
    raise AssertionError(f"sample {sample} is in no row")


def micro_batch(pack: Pack, batch: Batch, images: slice = slice(None)) -> MicroBatch:
    return MicroBatch.of(batch, pack.candidates.slots_N[images], pack.cls_ID[images], pack.tokens_IKE[images])


def loss_sums(searcher: ChatSearcher, pack: Pack, batch: MicroBatch) -> Tensor:
    """Words and images, in nats."""
    with torch.no_grad():
        got = losses(searcher, batch, pack.candidates, ONE, CONFIG)
    torch.testing.assert_close(got["loss"], got["word"] + CONFIG.image_weight * got["image"])
    return torch.stack([got["word"], got["image"]])


def images_of(pack: Pack, sample: int) -> slice:
    places = np.flatnonzero(pack.batch.image_sample == sample)
    return slice(int(places[0]), int(places[-1]) + 1) if len(places) else slice(0, 0)


def targets_of(pack: Pack, whole: MicroBatch, sample: int) -> MicroBatch:
    """The same inputs with the targets of one sample alone."""
    row, span = spans(pack.batch, sample, pack.examples)
    labels_RL = torch.full_like(whole.labels_RL, IGNORED)
    labels_RL[row, span] = whole.labels_RL[row, span]
    mine_I = torch.from_numpy(pack.batch.image_sample == sample)
    return replace(whole, labels_RL=labels_RL, image_target_I=whole.image_target_I & mine_I)


def perturbed(pack: Pack, whole: MicroBatch, sample: int, draw: np.random.Generator) -> MicroBatch:
    """Other words and other pictures for one sample. The queue's candidates stay: through them samples are meant to meet."""
    row, span = spans(pack.batch, sample, pack.examples)
    ids_RL, images = whole.input_ids_RL.clone(), images_of(pack, sample)
    ids_RL[row, span] = torch.from_numpy(draw.integers(0, WORDS + 2, span.stop - span.start))
    cls_ID, tokens_IKE = whole.cls_ID.clone(), whole.tokens_IKE.clone()
    cls_ID[images] += 3.0
    tokens_IKE[images] *= -2.0
    return replace(whole, input_ids_RL=ids_RL, cls_ID=cls_ID, tokens_IKE=tokens_IKE)


def test_a_packed_sample_has_the_loss_it_has_alone_and_no_neighbour_changes_it(searcher) -> None:
    num_images = num_disturbed = 0
    for number in range(NUM_PACKS):
        packed = random_pack(searcher, number)
        whole = micro_batch(packed, packed.batch)
        draw = np.random.default_rng((number, 1))
        sample, neighbour = draw.permutation(len(packed.examples))[:2].tolist()

        within = loss_sums(searcher, packed, targets_of(packed, whole, sample))
        example = packed.examples[sample]
        alone_batch = pack([example], [sample], length=len(example), pad_id=0)
        alone = loss_sums(searcher, packed, micro_batch(packed, alone_batch, images_of(packed, sample)))
        torch.testing.assert_close(within, alone, rtol=1e-5, atol=1e-5, msg=f"pack {number}, sample {sample}")

        other = perturbed(packed, whole, neighbour, draw)
        assert torch.equal(loss_sums(searcher, packed, targets_of(packed, other, sample)), within), number
        num_images += bool(within[1] > 0)
        if number % 20 == 0 and example.num_targets and packed.examples[neighbour].num_targets:
            before, after = (loss_sums(searcher, packed, targets_of(packed, b, neighbour)) for b in (whole, other))
            assert not torch.equal(before, after), "the disturbance does nothing"
            num_disturbed += 1
    assert num_images > NUM_PACKS / 4  # image losses were compared, not only words'
    assert num_disturbed > NUM_PACKS / 40


def test_the_losses_of_a_pack_are_the_sum_of_its_samples(searcher) -> None:
    for number in range(50):
        packed = random_pack(searcher, number)
        whole = micro_batch(packed, packed.batch)
        parts = [loss_sums(searcher, packed, targets_of(packed, whole, n)) for n in range(len(packed.examples))]
        torch.testing.assert_close(loss_sums(searcher, packed, whole), torch.stack(parts).sum(0))
