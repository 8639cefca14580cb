"""How the dual encoder learns: the text of a document against its picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from chatsearch.data.tokenizer import ChatTokenizer
from chatsearch.evaluate.config import DualEncoderTrainingConfig
from chatsearch.evaluate.contrastive import GROUP_SIZE
from chatsearch.evaluate.dual_encoder import (
    DUAL_ENCODER_FORMAT,
    DualEncoder,
    DualEncoderConfig,
    text_ids,
    text_states,
)
from chatsearch.evaluate.learner import Asked, features_of, retrieval_loss, shape_of
from chatsearch.evaluate.pairs import Draw, pair_of
from chatsearch.index.features import FeatureStore
from chatsearch.model.autocast import mixed_precision
from chatsearch.model.weights import StartingWeights
from chatsearch.storage import Folder


@dataclass(frozen=True)
class DualEncoderLearner:
    """A dual encoder on its documents."""

    network: DualEncoder
    tokenizer: ChatTokenizer
    store: FeatureStore
    config: DualEncoderTrainingConfig

    @classmethod
    def start(cls, config: DualEncoderTrainingConfig, weights: StartingWeights, store: FeatureStore) -> Self:
        """Before the first step: the text tower is the model's starting language model, or drawn at random.

        Raises:
            ConfigError: the weights have fewer layers than wanted.
        """
        shape = DualEncoderConfig.model_validate({**shape_of(config, weights, store), "pooling": config.pooling})
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            network = DualEncoder(shape)
        if not config.from_scratch:
            network.text.load_word_weights(weights.language)
        network.text.decoder.embed_tokens.requires_grad_(not config.freeze_words)
        return cls(network, weights.tokenizer, store, config)

    def ask(self, draws: Sequence[Draw]) -> Asked:
        """The text tower's states of the documents' texts."""
        pairs = [pair_of(*draw) for draw in draws]
        rows = [text_ids(text, self.tokenizer, self.config.max_length) for text, _ in pairs]
        images = [image for _, image in pairs]
        with mixed_precision(torch.device("cpu"), enabled=self.config.mixed):
            states_BH = text_states(self.network, rows, self.tokenizer.pad_id, group_size=GROUP_SIZE)
        return Asked(states_BH, torch.from_numpy(features_of(self.store, images)), images)

    def losses(self, draws: Sequence[Draw]) -> dict[str, Tensor]:
        """InfoNCE both ways."""
        return {"loss": retrieval_loss(self.network, self.ask(draws))}

    def write(self, folder: Folder) -> None:
        """Write all files but the manifest."""
        DUAL_ENCODER_FORMAT.write(folder, self.network.config, self.network, self.tokenizer)
