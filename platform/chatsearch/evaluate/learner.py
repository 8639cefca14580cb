"""A baseline as its trainer sees it.

Shapes: B samples of a step, H hidden width, D width of f_CLS.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
from torch import Tensor

from chatsearch.errors import ConfigError
from chatsearch.evaluate.config import BaselineConfig
from chatsearch.evaluate.contrastive import ContrastiveModel, symmetric_loss
from chatsearch.evaluate.pairs import Draw
from chatsearch.index.features import FeatureStore
from chatsearch.index.vectors import Float32
from chatsearch.model.weights import StartingWeights
from chatsearch.storage import Folder


class Asked(NamedTuple):
    """What the samples of a step ask, and for which pictures."""

    states_BH: Tensor
    cls_BD: Tensor
    """Raw f_CLS of the wanted pictures."""
    images: Sequence[str]
    """Their content hashes."""


class Learner(Protocol):
    """A network, and how it learns from documents."""

    @property
    def network(self) -> ContrastiveModel:
        """What is trained: all its parameters that require a gradient."""
        ...

    def ask(self, draws: Sequence[Draw]) -> Asked:
        """What the network makes of the samples of a step."""
        ...

    def losses(self, draws: Sequence[Draw]) -> dict[str, Tensor]:
        """The ``loss`` of a step in nats, with gradient, and its parts by name."""
        ...

    def write(self, folder: Folder) -> None:
        """Write all files but the manifest."""
        ...


def retrieval_loss(network: ContrastiveModel, asked: Asked) -> Tensor:
    """InfoNCE both ways over the samples of a step."""
    vectors = network.text_embedding(asked.states_BH), network.image_embedding(asked.cls_BD)
    return symmetric_loss(*vectors, network.scale, asked.images)


def features_of(store: FeatureStore, images: Sequence[str]) -> Float32:
    """Raw f_CLS of pictures, one row each.

    Raises:
        MissingInputError: the store does not hold one of them.
    """
    return np.stack([store.get(image) for image in images])


def shape_of(config: BaselineConfig, weights: StartingWeights, store: FeatureStore) -> dict[str, object]:
    """The part of a network's shape that all baselines have.

    Raises:
        ConfigError: the weights have fewer layers than wanted.
    """
    language = weights.language_config
    if config.num_layers > language.num_layers:
        raise ConfigError(
            f"num_layers={config.num_layers} is more than the {language.num_layers} layers of the weights."
        )
    return {
        "language": language.replace(num_layers=config.num_layers or language.num_layers),
        "feature_dim": store.dimension,
        "retrieval_dim": config.retrieval_dim,
        "max_length": config.max_length,
        "tau0": config.tau0,
    }
