"""One step: a micro-batch and the candidates of its global step in, named losses out. Nothing is changed.

Shapes: R rows of L positions, I images of the micro-batch, T of them wanted, C candidates, D numbers of f_CLS,
K tokens of width E, H hidden width, d retrieval width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from chatsearch.data.pack import Batch
from chatsearch.model.autocast import mixed_precision
from chatsearch.model.config import ObjectiveConfig
from chatsearch.model.objective import combine, image_loss, word_loss
from chatsearch.model.queue import Candidates
from chatsearch.model.searcher import ChatSearcher


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """A packed batch on its device, with the frozen features of its images."""

    input_ids_RL: Tensor
    labels_RL: Tensor
    position_ids_RL: Tensor
    image_row_I: Tensor
    image_col_I: Tensor
    image_target_I: Tensor
    image_first_I: Tensor
    image_read_I: Tensor
    candidate_I: Tensor
    """Index of each image among the candidates."""
    cls_ID: Tensor
    tokens_IKE: Tensor

    @classmethod
    def of(cls, batch: Batch, candidate_I: Tensor, cls_ID: Tensor, tokens_IKE: Tensor) -> MicroBatch:
        """The batch beside the features of its images, on their device."""

        def tensor(array: NDArray[Any]) -> Tensor:
            return torch.from_numpy(array).to(cls_ID.device)

        return cls(
            input_ids_RL=tensor(batch.input_ids),
            labels_RL=tensor(batch.labels),
            position_ids_RL=tensor(batch.position_ids),
            image_row_I=tensor(batch.image_row),
            image_col_I=tensor(batch.image_col),
            image_target_I=tensor(batch.image_target),
            image_first_I=tensor(batch.image_first),
            image_read_I=tensor(batch.image_read),
            candidate_I=candidate_I,
            cls_ID=cls_ID,
            tokens_IKE=tokens_IKE,
        )

    def hidden_states(self, searcher: ChatSearcher) -> Tensor:
        """(R, L, H), with the images that are read in their slots."""
        read_I = self.image_read_I
        hidden_RLH: Tensor = searcher(
            self.input_ids_RL,
            self.position_ids_RL,
            image_row_I=self.image_row_I[read_I],
            image_col_I=self.image_col_I[read_I],
            cls_ID=self.cls_ID[read_I],
            tokens_ITE=self.tokens_IKE[read_I],
        )
        return hidden_RLH


@dataclass(frozen=True, slots=True)
class Targets:
    """How many targets the whole global step has: what sums are divided by."""

    words: Tensor
    images: Tensor


def losses(
    searcher: ChatSearcher,
    batch: MicroBatch,
    candidates: Candidates,
    targets: Targets,
    config: ObjectiveConfig,
    *,
    mixed: bool = False,
) -> dict[str, Tensor]:
    """The share of one micro-batch in the loss of the step.

    Sums run over the micro-batch, counts over the global step, so the ``loss`` of all micro-batches of all workers
    add up to (eq. 1); ``mixed`` multiplies the matrices of the searcher in bf16

        mean over word targets of -log P(w_t | w_<t)  +  lambda * mean over image targets of -log P(w_I | w_<I)

    Returns:
        ``loss``, with gradient; ``word``, ``image``, ``image_first``, sums in nats; ``num_first``, ``num_correct``, counts.
    """
    # Only here: cosines of near-misses differ in digits that bf16 does not have.
    with mixed_precision(batch.cls_ID.device, enabled=mixed):
        hidden_RLH = batch.hidden_states(searcher)
        word = word_loss(hidden_RLH, batch.labels_RL, searcher.word_logits)
    wanted_I = batch.image_target_I
    state_TH = searcher.image_states(hidden_RLH, batch.image_row_I[wanted_I], batch.image_col_I[wanted_I])
    image = image_loss(
        searcher.query_embedding(state_TH),
        searcher.gallery_embedding(candidates.features_CD),
        batch.candidate_I[wanted_I],
        batch.image_first_I[wanted_I],
        searcher.scale,
        ids_C=candidates.ids_C,
        valid_C=candidates.valid_C,
        config=config,
    )
    return {
        "loss": combine(word.total, image.wanted.total, targets.words, targets.images, config),
        "word": word.total.detach(),
        "image": image.wanted.total.detach(),
        "image_first": image.first.total,
        "num_first": image.first.count,
        "num_correct": image.num_correct,
    }


class StepModule(nn.Module):
    """:func:`losses` as a module, which is what DeepSpeed wraps; ``searcher`` is its only part."""

    def __init__(self, searcher: ChatSearcher, config: ObjectiveConfig, *, mixed: bool) -> None:
        super().__init__()
        self.searcher = searcher
        self.config = config
        self.mixed = mixed

    def forward(self, batch: MicroBatch, candidates: Candidates, targets: Targets) -> dict[str, Tensor]:
        """See :func:`losses`."""
        return losses(self.searcher, batch, candidates, targets, self.config, mixed=self.mixed)
