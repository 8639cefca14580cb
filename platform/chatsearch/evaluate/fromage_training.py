"""How FROMAGe learns: every document asks for its picture, and every captioned picture is described as well."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Self

import torch
from torch import Tensor

from chatsearch.data.tokenizer import ChatTokenizer
from chatsearch.evaluate.config import FromageTrainingConfig
from chatsearch.evaluate.contrastive import GROUP_SIZE
from chatsearch.evaluate.fromage import FROMAGE_FORMAT, Fromage, FromageConfig
from chatsearch.evaluate.fromage_rows import FromageRow, caption_row, retrieval_row
from chatsearch.evaluate.learner import Asked, features_of, retrieval_loss, shape_of
from chatsearch.evaluate.pairs import Draw, context_of, pair_of
from chatsearch.index.features import FeatureStore
from chatsearch.model.autocast import mixed_precision
from chatsearch.model.weights import StartingWeights
from chatsearch.storage import Folder
from chatsearch.types import Kind

_NUM_SCALED = 1000
"""Pictures that tell how large f_CLS is."""
_SHARES = 1 << 16
"""Steps in which the share of joined captions is drawn."""


@dataclass(frozen=True)
class FromageLearner:
    """FROMAGe on its documents."""

    network: Fromage
    tokenizer: ChatTokenizer
    store: FeatureStore
    config: FromageTrainingConfig

    @classmethod
    def start(cls, config: FromageTrainingConfig, weights: StartingWeights, store: FeatureStore) -> Self:
        """Before the first step.

        Raises:
            ConfigError: the weights have fewer layers than wanted.
        """
        shape = FromageConfig.model_validate(
            {**shape_of(config, weights, store), "num_visual_tokens": config.num_visual_tokens}
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            network = Fromage(shape)
        network.text.load_word_weights(weights.language)
        network.start_inputs(torch.from_numpy(store.matrix_ND[:_NUM_SCALED].copy()))
        return cls(network, weights.tokenizer, store, config)

    def ask(self, draws: Sequence[Draw]) -> Asked:
        """States of ``[RET]`` behind the documents' contexts."""
        found = [context_of(*draw) for draw in draws]
        rows = [
            retrieval_row(
                context,
                self.tokenizer,
                num_visual_tokens=self.config.num_visual_tokens,
                max_length=self.config.max_length,
            )
            for context, _ in found
        ]
        images = [image for _, image in found]
        features = partial(features_of, self.store)
        with mixed_precision(torch.device("cpu"), enabled=self.config.mixed):
            states_BH = self.network.states(rows, features, self.tokenizer.pad_id, group_size=GROUP_SIZE)
        return Asked(states_BH, torch.from_numpy(features(images)), images)

    def losses(self, draws: Sequence[Draw]) -> dict[str, Tensor]:
        """InfoNCE both ways and the mean over the words of captions, as FROMAGe's two modes of each batch."""
        retrieval = retrieval_loss(self.network, self.ask(draws))
        rows = self.caption_rows(draws)
        if not rows or not self.config.caption_weight:
            return {"loss": retrieval, "retrieval_loss": retrieval.detach()}
        caption = self._caption_loss(rows)
        loss = retrieval + self.config.caption_weight * caption
        return {"loss": loss, "retrieval_loss": retrieval.detach(), "caption_loss": caption.detach()}

    def caption_rows(self, draws: Sequence[Draw]) -> list[FromageRow]:
        """Rows of the caption documents of a step, one or two a row."""
        build = partial(
            caption_row,
            tokenizer=self.tokenizer,
            num_visual_tokens=self.config.num_visual_tokens,
            max_length=self.config.max_length,
        )
        return [build(captioned) for captioned in self._captioned(draws)]

    def _captioned(self, draws: Sequence[Draw]) -> Iterator[list[tuple[str, str]]]:
        """Pictures and captions that share a row. Two do at times, so that text learns to mind the right one of several."""
        held: list[tuple[str, str]] = []
        for draw in draws:
            if draw.document.kind != Kind.CAPTION:
                continue
            text, image = pair_of(*draw)
            held.append((image, text))
            joins = draw.coin.draw("concatenate", _SHARES) < self.config.concatenate * _SHARES
            if len(held) == 2 or not joins:
                yield held
                held = []
        if held:
            yield held

    def _caption_loss(self, rows: Sequence[FromageRow]) -> Tensor:
        """Nats a word."""
        by_length = sorted(rows, key=len)
        features = partial(features_of, self.store)
        with mixed_precision(torch.device("cpu"), enabled=self.config.mixed):
            parts = [
                self.network.word_loss(by_length[start : start + GROUP_SIZE], features, self.tokenizer.pad_id)
                for start in range(0, len(by_length), GROUP_SIZE)
            ]
        num_words = torch.stack([part.count for part in parts]).sum()
        return torch.stack([part.total for part in parts]).sum() / num_words

    def write(self, folder: Folder) -> None:
        """Write all files but the manifest."""
        FROMAGE_FORMAT.write(folder, self.network.config, self.network, self.tokenizer)
