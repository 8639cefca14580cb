"""Pictures that training shares with the galleries that a model is going to be measured on.

LLaVA-150k, for one, takes pictures of COCO train2017, which holds most of Karpathy's validation and test pictures. A picture is
known by the hash of its encoded bytes: a copy that was scaled or encoded anew is another picture here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from chatsearch.data.shards import DocumentShards


@dataclass(frozen=True)
class Leak:
    """What one stream shares with one gallery."""

    shards: str
    gallery: str
    num_pictures: int
    """Distinct pictures in both."""
    documents_L: NDArray[np.int64]
    """Indices of the stream's documents that show one of them, ascending."""

    def __str__(self) -> str:
        return f"{len(self.documents_L)} documents of {self.shards} show {self.num_pictures} pictures of the held-out {self.gallery}"


def leaks(shards: DocumentShards, taken_N: NDArray[np.int64], galleries: Sequence[str]) -> list[Leak]:
    """What the documents that a stream takes share with each gallery; galleries they share nothing with are left out.

    Args:
        shards: of the stream.
        taken_N: indices of the documents it takes.
        galleries: URIs of document shards; all their pictures count.

    Raises:
        ArtefactError: a gallery is not there, not finished or damaged.
    """
    found = []
    for uri in galleries:
        documents_L, num_pictures = shards.showing(taken_N, DocumentShards.open(uri).images.hashes())
        if num_pictures:
            found.append(Leak(shards.artefact.uri, uri, num_pictures, documents_L))
    return found
