"""The feature queue: the images against which an image target is matched.

It holds raw f_CLS vectors of the frozen encoder. They are projected with the current M_Q at every use, so
an old entry is never stale and gradients reach M_Q.

Shapes: N images entering in one step, Q slots, C candidates, D numbers of f_CLS.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

EMPTY = -1
"""Id of a slot that holds nothing."""


def content_id(content_hash: str) -> int:
    """The first 63 bits of a content hash: the int64 identity of a picture in the queue."""
    return int(content_hash[:16], 16) >> 1


@dataclass(frozen=True, slots=True)
class Candidates:
    """What the image targets of one step are matched against."""

    features_CD: Tensor
    ids_C: Tensor
    """Content ids; :data:`EMPTY` where a slot is not filled yet."""
    valid_C: Tensor
    """False where a slot is not filled yet."""
    slots_N: Tensor
    """Candidate index of each image that just entered, in the order given."""

    @classmethod
    def only(cls, features_ND: Tensor, ids_N: Tensor) -> Candidates:
        """The given images and nothing else."""
        slots_N = torch.arange(len(ids_N), device=ids_N.device)
        return cls(features_ND, ids_N, torch.ones_like(ids_N, dtype=torch.bool), slots_N)


class FeatureQueue(nn.Module):
    """First in, first out by step; part of every checkpoint through its persistent buffers.

    Give it the images of the *global* step in the order (sample, position): then its content is a function
    of the step alone, whatever the number of workers. With ``size=0`` nothing is kept: the candidates are
    the images given, which for the ablation without queue are those of the local mini-batch.
    """

    features_QD: Tensor
    ids_Q: Tensor
    pointer: Tensor
    count: Tensor

    def __init__(self, size: int, feature_dim: int) -> None:
        super().__init__()
        self.size = size
        self.register_buffer("features_QD", torch.zeros(size, feature_dim))
        self.register_buffer("ids_Q", torch.full((size,), EMPTY, dtype=torch.int64))
        self.register_buffer("pointer", torch.zeros((), dtype=torch.int64))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def enqueue(self, features_ND: Tensor, ids_N: Tensor) -> Candidates:
        """Let the images of a step in and return the candidates of that step.

        The images enter before the loss, so each of them is among the candidates. When a step has more
        images than the queue has slots its candidates are all its images, and the newest of them stay.
        """
        num_images = len(ids_N)
        assert features_ND.shape == (num_images, self.features_QD.shape[1]), features_ND.shape
        assert bool((ids_N >= 0).all()), "content ids are not negative"
        features_ND = features_ND.to(self.features_QD)
        ids_N = ids_N.to(self.ids_Q)
        kept = min(num_images, self.size)
        slots_K = torch.empty(0, dtype=torch.int64, device=self.ids_Q.device)
        if kept:
            slots_K = (self.pointer + torch.arange(kept, device=self.ids_Q.device)) % self.size
            self.features_QD[slots_K] = features_ND[num_images - kept :]
            self.ids_Q[slots_K] = ids_N[num_images - kept :]
            self.pointer.copy_((self.pointer + kept) % self.size)
            self.count.copy_((self.count + kept).clamp(max=self.size))
        if num_images > self.size:
            return Candidates.only(features_ND, ids_N)
        # Copies: the next step overwrites slots while the graph of this one may still hold its candidates.
        return Candidates(self.features_QD.clone(), self.ids_Q.clone(), self.ids_Q != EMPTY, slots_K)

    def contents(self) -> tuple[Tensor, Tensor]:
        """Features and ids of the filled slots, oldest first."""
        filled = int(self.count)
        start = int(self.pointer) - filled
        order = (start + torch.arange(filled, device=self.ids_Q.device)) % max(self.size, 1)
        return self.features_QD[order], self.ids_Q[order]
