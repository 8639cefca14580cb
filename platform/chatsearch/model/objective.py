"""Equations 1 to 3 of the paper as pure functions on tensors.

Each returns a sum and a count, never a mean: means run over the whole global step, whose counts no single
worker or micro-batch knows.

Shapes: P positions, H hidden width, V words with the control tokens, T image targets, C candidates,
d retrieval width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from chatsearch.model.config import ObjectiveConfig

IGNORE = -100
"""Label of a position after which nothing is wanted."""


@dataclass(frozen=True, slots=True)
class LossSum:
    """A sum of losses in nats and the number of targets in it."""

    total: Tensor
    count: Tensor

    def mean(self) -> Tensor:
        """Loss a target; 0, not NaN, when there is none."""
        return self.total / self.count.clamp(min=1)


@dataclass(frozen=True, slots=True)
class ImageLoss:
    """The image part of a step."""

    wanted: LossSum
    """What is optimised."""
    first: LossSum
    """Images with nothing before them, counted apart; inside ``wanted`` too unless they are skipped."""
    num_correct: Tensor
    """Targets of ``wanted`` that score above every other candidate."""


def word_loss(
    hidden_PH: Tensor, labels_P: Tensor, logits: Callable[[Tensor], Tensor], *, positions_per_chunk: int = 1024
) -> LossSum:
    """Cross-entropy of the next word, summed over labelled positions.

    Args:
        hidden_PH: final hidden states; leading dimensions are flattened.
        labels_P: ``labels[t]`` is the id wanted *after* position t, :data:`IGNORE` where nothing is.
        logits: M_t, from (n, H) to (n, V). Only labelled positions are projected, a chunk at a time; beyond
            one chunk the logits are recomputed in the backward pass, so memory holds one chunk of them.
        positions_per_chunk: n.
    """
    labels_P = labels_P.reshape(-1)
    wanted_P = labels_P != IGNORE
    hidden_TH = hidden_PH.reshape(-1, hidden_PH.shape[-1])[wanted_P]
    labels_T = labels_P[wanted_P]

    def chunk_loss(hidden_nH: Tensor, labels_n: Tensor) -> Tensor:
        return F.cross_entropy(logits(hidden_nH).float(), labels_n, reduction="sum")

    count = wanted_P.sum()
    if len(labels_T) <= positions_per_chunk:
        # An empty sum still hangs on the graph: every parameter gets a zero gradient instead of none.
        return LossSum(chunk_loss(hidden_TH, labels_T), count)
    chunks = zip(hidden_TH.split(positions_per_chunk), labels_T.split(positions_per_chunk), strict=True)
    parts = [checkpoint(chunk_loss, hidden_nH, labels_n, use_reentrant=False) for hidden_nH, labels_n in chunks]
    return LossSum(torch.stack(parts).sum(), count)


def image_losses(
    similarity_TC: Tensor,
    positive_T: Tensor,
    scale: Tensor,
    *,
    ids_C: Tensor,
    valid_C: Tensor,
    strict_negatives: bool = False,
) -> Tensor:
    """Equation 3: minus log probability of each wanted image among the candidates, in nats, shape (T,).

    Args:
        similarity_TC: cosines of equation 2.
        positive_T: candidate index of the wanted image; it is always among the candidates.
        scale: 1 / tau.
        ids_C: content ids. Other copies of the wanted image are left out of the denominator.
        valid_C: False for empty slots, which are left out too.
        strict_negatives: keep other copies as negatives.
    """
    allowed_TC = allowed_candidates(positive_T, ids_C, valid_C, strict_negatives=strict_negatives)
    logits_TC = (similarity_TC.float() * scale.float()).masked_fill(~allowed_TC, float("-inf"))
    positive_logit_T = logits_TC.gather(1, positive_T[:, None]).squeeze(1)
    return torch.logsumexp(logits_TC, dim=1) - positive_logit_T


def allowed_candidates(positive_T: Tensor, ids_C: Tensor, valid_C: Tensor, *, strict_negatives: bool = False) -> Tensor:
    """Which candidates stand in the denominator of each target, (T, C) bool. The wanted one always does."""
    is_positive_TC = torch.arange(len(ids_C), device=ids_C.device)[None, :] == positive_T[:, None]
    allowed_TC = valid_C[None, :].expand_as(is_positive_TC)
    if not strict_negatives:
        allowed_TC = allowed_TC & (ids_C[None, :] != ids_C[positive_T][:, None])
    return allowed_TC | is_positive_TC


def image_loss(
    query_Td: Tensor,
    candidate_Cd: Tensor,
    positive_T: Tensor,
    first_T: Tensor,
    scale: Tensor,
    *,
    ids_C: Tensor,
    valid_C: Tensor,
    config: ObjectiveConfig,
) -> ImageLoss:
    """Equation 3 summed over the image targets of a micro-batch.

    Args:
        query_Td: unit vectors of h_I M_v.
        candidate_Cd: unit vectors of f_CLS M_Q.
        positive_T: candidate index of each wanted image.
        first_T: whether nothing stands before the image.
        scale: 1 / tau.
        ids_C: content ids of the candidates.
        valid_C: False for empty slots.
        config: which candidates and targets count.
    """
    similarity_TC = query_Td.float() @ candidate_Cd.float().T
    strict = config.strict_negatives
    losses_T = image_losses(similarity_TC, positive_T, scale, ids_C=ids_C, valid_C=valid_C, strict_negatives=strict)
    kept_T = ~first_T if config.skip_first_images else torch.ones_like(first_T)
    with torch.no_grad():
        allowed_TC = allowed_candidates(positive_T, ids_C, valid_C, strict_negatives=strict)
        positive_score_T = similarity_TC.gather(1, positive_T[:, None])
        others_TC = allowed_TC.scatter(1, positive_T[:, None], False)
        beaten_T = ~((similarity_TC >= positive_score_T) & others_TC).any(dim=1)
    return ImageLoss(
        wanted=LossSum((losses_T * kept_T).sum(), kept_T.sum()),
        first=LossSum((losses_T.detach() * first_T).sum(), first_T.sum()),
        num_correct=(beaten_T & kept_T).sum(),
    )


def combine(
    word_total: Tensor, image_total: Tensor, num_words: Tensor, num_images: Tensor, config: ObjectiveConfig
) -> Tensor:
    """The loss of a step from sums and counts.

    With sums of one micro-batch and counts of the whole global step, the results of all micro-batches of all
    workers add up to the loss of the step.
    """
    if config.reduction == "token_sum":
        return (word_total + image_total) / (num_words + num_images).clamp(min=1)
    return word_total / num_words.clamp(min=1) + config.image_weight * image_total / num_images.clamp(min=1)
