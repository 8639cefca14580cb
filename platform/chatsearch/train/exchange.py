"""What the ranks tell each other before and after a step, so that the step is one whatever their number.

Before the loss every rank learns the images of the whole global step and how many targets it has; after it, the sums
of all ranks. Gathered values are put together in a fixed order, so every rank computes the same bits.

Shapes: I images of this rank, N of all ranks, D numbers of f_CLS, W ranks.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from chatsearch.model.queue import Candidates, FeatureQueue


@dataclass(frozen=True, slots=True)
class StepImages:
    """The images of a global step, in the order (sample, position)."""

    features_ND: Tensor
    ids_N: Tensor
    place_I: Tensor
    """Place of each of this rank's images among the N."""

    def enqueue(self, queue: FeatureQueue) -> tuple[Candidates, Tensor]:
        """Let them into the queue; returns the candidates and the candidate index of each of this rank's images."""
        candidates = queue.enqueue(self.features_ND, self.ids_N)
        return candidates, candidates.slots_N[self.place_I]


def gather_rows(rows: Tensor) -> list[Tensor]:
    """The rows of every rank, by rank; their numbers may differ, everything else must not."""
    count = torch.tensor([len(rows)], dtype=torch.int64, device=rows.device)
    counts = [torch.zeros_like(count) for _ in range(dist.get_world_size())]
    dist.all_gather(counts, count)
    sizes = [int(size) for size in counts]
    padded = rows.new_zeros((max(*sizes, 1), *rows.shape[1:]))
    padded[: len(rows)] = rows
    parts = [torch.empty_like(padded) for _ in sizes]
    dist.all_gather(parts, padded)
    return [part[:size] for part, size in zip(parts, sizes, strict=True)]


def gather_images(features_ID: Tensor, ids_I: Tensor, ordinals_I: Tensor) -> StepImages:
    """Bring together the images of all ranks.

    Args:
        features_ID: raw f_CLS of this rank's images, in the order (sample, position).
        ids_I: their content ids.
        ordinals_I: place of their samples in the global step.
    """
    rank = dist.get_rank()
    features = gather_rows(features_ID)
    keys = gather_rows(torch.stack([ordinals_I, ids_I], dim=1))
    ordinals_N, ids_N = torch.cat(keys).unbind(1)
    # Images of one sample lie together and in order on one rank, so a stable sort by sample is the global order.
    order_N = torch.argsort(ordinals_N, stable=True)
    place_N = torch.empty_like(order_N)
    place_N[order_N] = torch.arange(len(order_N), device=order_N.device)
    first = sum(len(part) for part in keys[:rank])
    return StepImages(torch.cat(features)[order_N], ids_N[order_N], place_N[first : first + len(ids_I)])


def gather_numbers(values: Tensor) -> Tensor:
    """One row of numbers from every rank, (W, len(values)). Sums over it are the same bits on every rank."""
    parts = [torch.empty_like(values) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, values)
    return torch.stack(parts)
