"""Text-to-image retrieval on any captioned folder: every caption one query, every picture of the split one candidate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from chatsearch.corpora.base import Rejected
from chatsearch.errors import InputError, TooManyRejectedError
from chatsearch.evaluate.config import RidgeConfig
from chatsearch.evaluate.inputs import captions_of
from chatsearch.evaluate.methods import Method
from chatsearch.evaluate.metrics import Ranks, recalls
from chatsearch.evaluate.pictures import PictureFeatures
from chatsearch.evaluate.queries import Query
from chatsearch.evaluate.ranking import Gallery, rank
from chatsearch.evaluate.ridge import BagOfWordsRidge, Captioned, fit
from chatsearch.index.vectors import Float32
from chatsearch.types import Segment

PROTOCOL = {
    "query": "caption followed by [IMG], each caption one query",
    "gallery": "the distinct pictures of the split",
    "rank": "1 + number of other pictures with score >= the target's; exact float32 cosine",
}
_MAX_NAMED = 100


@dataclass
class CaptionedSplit:
    """Captions and pictures of one split, and what was set aside."""

    split: str
    queries: list[Query] = field(default_factory=list)
    gallery: list[str] = field(default_factory=list)
    """Distinct content hashes."""
    pictures: dict[str, bytes] = field(default_factory=dict)
    rejected: list[tuple[str, str]] = field(default_factory=list)
    """Key and reason."""
    num_records: int = 0

    def get(self, content_hash: str, /) -> bytes:
        """The encoded bytes of one picture."""
        return self.pictures[content_hash]

    def report(self) -> dict[str, Any]:
        """Counts for the result; at most a hundred bad records are named."""
        return {
            "split": self.split,
            "num_queries": len(self.queries),
            "num_gallery": len(self.gallery),
            "num_records": self.num_records,
            "num_rejected": len(self.rejected),
            "rejected": [{"key": key, "reason": reason} for key, reason in self.rejected[:_MAX_NAMED]],
        }


def read_split(folder: str, split: str | None, *, max_rejected_fraction: float = 1.0) -> CaptionedSplit:
    """Read one split of a captioned folder, or all of it.

    Raises:
        InputError: nothing usable is left.
        TooManyRejectedError: a larger share of the records than allowed is bad.
    """
    corpus = captions_of(folder, split)
    found = CaptionedSplit(split or "all")
    seen: dict[str, None] = {}
    bad_records: set[str] = set()
    for partition in corpus.partitions():
        for record in corpus.read(partition):
            if isinstance(record, Rejected):
                found.rejected.append((record.key, record.reason))
                bad_records.add(record.key.split("#")[0])
                continue
            found.num_records += 1
            (image,) = record.document.images()
            seen[image] = None
            found.pictures[image] = record.images[image]
            captions = [s.text for s in record.document.segments if s.text is not None]
            name = record.document.document_id
            found.queries += [Query(f"{name}/{n}", (Segment(caption),), image) for n, caption in enumerate(captions)]
    found.gallery = list(seen)
    num_bad = len(bad_records)
    total = found.num_records + num_bad
    if total and num_bad / total > max_rejected_fraction:
        first = "; ".join(f"{key}: {reason}" for key, reason in found.rejected[:3])
        raise TooManyRejectedError(
            f"{num_bad} of {total} records of {folder} (split {found.split}) are bad, more than max_rejected_fraction="
            f"{max_rejected_fraction}. First: {first}. Repair them, or raise the limit."
        )
    if not found.queries:
        raise InputError(
            f"{folder} (split {found.split}) holds no usable captioned picture: {num_bad} records are bad."
        )
    return found


def measure(method: Method, data: CaptionedSplit, features: PictureFeatures) -> Ranks:
    """Rank the picture of every caption."""
    gallery = Gallery(data.gallery)
    vectors_Nd = method.gallery(features.matrix(gallery.hashes, what="encode the gallery"))
    return rank(gallery, vectors_Nd, method.queries(data.queries), [query.target for query in data.queries])


def cells(ranks: Ranks) -> dict[str, Any]:
    """R@K in percent, the optimistic reading of ties beside it."""
    return {**recalls(ranks.pessimistic_Q), "optimistic": recalls(ranks.optimistic_Q)}


@dataclass(frozen=True)
class RidgeMethod:
    """Bag-of-words ridge regression as a method."""

    ridge: BagOfWordsRidge
    name: str = "bag-of-words ridge"

    def applies_to(self, sub_task: str) -> bool:
        """To texts."""
        return True

    def queries(self, queries: Sequence[Query]) -> Float32:
        """Predicted pictures."""
        return self.ridge.queries([query.text for query in queries])

    def gallery(self, features_ND: Float32) -> Float32:
        """Centred features."""
        return self.ridge.gallery(features_ND)


def fit_ridge(
    train: CaptionedSplit, val: CaptionedSplit | None, features: PictureFeatures, config: RidgeConfig
) -> RidgeMethod:
    """Fit on the train split of the same folder, lambda chosen on its val split."""
    fitted = fit(
        _captioned(train, features, "encode train pictures for ridge"),
        config,
        _captioned(val, features, "encode val pictures for ridge") if val is not None else None,
    )
    return RidgeMethod(fitted)


def _captioned(data: CaptionedSplit, features: PictureFeatures, what: str) -> Captioned:
    gallery = Gallery(data.gallery)
    return Captioned(
        [query.text for query in data.queries],
        np.array(gallery.columns([query.target for query in data.queries]), dtype=np.int64),
        features.matrix(gallery.hashes, what=what),
    )
