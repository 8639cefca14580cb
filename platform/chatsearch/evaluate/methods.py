"""The methods that are compared: each turns contexts and pictures into unit vectors of one space.

Shape suffixes: Q queries, N gallery pictures, D width of f_CLS, d width of the method's space.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import torch

from chatsearch.converse.query import FeatureSource, encode_queries
from chatsearch.errors import FingerprintMismatchError
from chatsearch.evaluate.contrastive import Trained
from chatsearch.evaluate.dual_encoder import TrainedDualEncoder, encode_texts
from chatsearch.evaluate.fromage import TrainedFromage, encode_contexts
from chatsearch.evaluate.pictures import PictureFeatures
from chatsearch.evaluate.queries import Query
from chatsearch.index.vectors import Float32, unit_rows
from chatsearch.model.bundle import ModelBundle

Variant = Literal["t", "i", "ti"]
"""What a dual encoder reads of a context: text, last picture, or both."""


class Method(Protocol):
    """One row of the table."""

    @property
    def name(self) -> str:
        """What the table calls it."""
        ...

    def applies_to(self, sub_task: str) -> bool:
        """Whether the method can be asked this sub-task at all."""
        ...

    def queries(self, queries: Sequence[Query]) -> Float32:
        """Unit vectors (Q, d)."""
        ...

    def gallery(self, features_ND: Float32) -> Float32:
        """Unit vectors (N, d) from raw f_CLS."""
        ...


@dataclass(frozen=True)
class ChatSearcherMethod:
    """The model: the whole context, then ``[IMG]`` forced."""

    bundle: ModelBundle
    pictures: FeatureSource
    batch_size: int = 32
    name: str = "ChatSearcher"

    def applies_to(self, sub_task: str) -> bool:
        """To all."""
        return True

    def queries(self, queries: Sequence[Query]) -> Float32:
        """Query embeddings read at ``[IMG]``."""
        contexts = [query.context for query in queries]
        return encode_queries(self.bundle, contexts, self.pictures, batch_size=self.batch_size)

    @torch.inference_mode()
    def gallery(self, features_ND: Float32) -> Float32:
        """unit(f_CLS M_Q)."""
        weight_dD = self.bundle.searcher.gallery_head.weight.detach().cpu().double().numpy()
        return unit_rows(features_ND.astype(np.float64) @ weight_dD.T)


@dataclass(frozen=True)
class RandomMethod:
    """Random directions on both sides: the ranking of each query is uniformly random."""

    seed: int
    name: str = "random (simulated)"

    def applies_to(self, sub_task: str) -> bool:
        """To all."""
        return True

    def queries(self, queries: Sequence[Query]) -> Float32:
        """Directions that know nothing of the query."""
        return unit_rows(np.random.default_rng([self.seed, 0]).normal(size=(len(queries), 64)))

    def gallery(self, features_ND: Float32) -> Float32:
        """Directions that know nothing of the picture."""
        return unit_rows(np.random.default_rng([self.seed, 1]).normal(size=(len(features_ND), 64)))


@dataclass(frozen=True)
class DualEncoderMethod:
    """The trained dual encoder asked by text (t), by the last picture (i), or by the mean of both vectors (ti)."""

    encoder: TrainedDualEncoder
    pictures: PictureFeatures
    variant: Variant

    @property
    def name(self) -> str:
        """With the variant."""
        return f"dual encoder ({self.variant})"

    def applies_to(self, sub_task: str) -> bool:
        """By picture only where there is one: not to t."""
        return self.variant == "t" or sub_task != "t"

    def queries(self, queries: Sequence[Query]) -> Float32:
        """Unit vectors of the parts of the context that the variant reads."""
        if self.variant == "t":
            return self._texts(queries)
        if self.variant == "i":
            return self._images(queries)
        return unit_rows(self._texts(queries) + self._images(queries))

    def gallery(self, features_ND: Float32) -> Float32:
        """Unit vectors of the pictures."""
        return unit_rows(self.encoder.images(features_ND))

    def _texts(self, queries: Sequence[Query]) -> Float32:
        return unit_rows(encode_texts(self.encoder, [query.text for query in queries]))

    def _images(self, queries: Sequence[Query]) -> Float32:
        last = [query.images[-1] for query in queries]
        return unit_rows(self.encoder.images(self.pictures.matrix(last)))


@dataclass(frozen=True)
class FromageMethod:
    """FROMAGe: the whole context, then ``[RET]``."""

    fromage: TrainedFromage
    pictures: PictureFeatures
    batch_size: int = 32
    name: str = "FROMAGe"

    def applies_to(self, sub_task: str) -> bool:
        """To all."""
        return True

    def queries(self, queries: Sequence[Query]) -> Float32:
        """Query embeddings read at ``[RET]``."""
        contexts = [query.context for query in queries]
        return unit_rows(encode_contexts(self.fromage, contexts, self.pictures.matrix, batch_size=self.batch_size))

    def gallery(self, features_ND: Float32) -> Float32:
        """Unit vectors of the pictures."""
        return unit_rows(self.fromage.images(features_ND))


def dual_encoder_methods(
    encoder: TrainedDualEncoder,
    pictures: PictureFeatures,
    bundle: ModelBundle,
    variants: Sequence[Variant] = ("i", "t", "ti"),
) -> list[Method]:
    """The variants of a dual encoder.

    Raises:
        FingerprintMismatchError: it reads the features of another vision encoder than the model.
    """
    _check_features(encoder, bundle)
    return [DualEncoderMethod(encoder, pictures, variant) for variant in variants]


def fromage_method(
    fromage: TrainedFromage, pictures: PictureFeatures, bundle: ModelBundle, *, batch_size: int
) -> Method:
    """FROMAGe.

    Raises:
        FingerprintMismatchError: it reads the features of another vision encoder than the model.
    """
    _check_features(fromage, bundle)
    return FromageMethod(fromage, pictures, batch_size)


def _check_features(baseline: Trained[Any], bundle: ModelBundle) -> None:
    if baseline.encoder_fingerprint != bundle.encoder_fingerprint:
        raise FingerprintMismatchError(
            f"Baseline {baseline.uri} reads features of encoder {baseline.encoder_fingerprint}, model {bundle.uri} those of "
            f"{bundle.encoder_fingerprint}: they would not be compared on the same features. Train the baseline on the model's."
        )
