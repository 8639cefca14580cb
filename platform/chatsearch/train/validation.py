"""Text to image on held-out documents while training goes on: how well a picture is found by its own words.

Shapes: Q documents, I pictures of a batch, N distinct pictures, d retrieval width.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from chatsearch.data.config import StreamConfig
from chatsearch.data.pack import Batch
from chatsearch.data.shards import DocumentShards
from chatsearch.data.steps import StepBuilder, taken
from chatsearch.errors import ConfigError
from chatsearch.evaluate.metrics import ranks_of_targets, recalls
from chatsearch.index.features import FeatureStore
from chatsearch.model.queue import content_id
from chatsearch.train.config import TrainConfig
from chatsearch.train.exchange import gather_numbers, gather_rows
from chatsearch.train.features import FrozenFeatures, StoredFeatures
from chatsearch.train.image_states import image_states
from chatsearch.train.trainer import Trainer

_DOCUMENTS_PER_PASS = 32


class Validator:
    """Ranks the pictures of a validation split by one caption of each, the same one every time."""

    def __init__(self, trainer: Trainer, builder: StepBuilder) -> None:
        """Open the validation shards that ``trainer.config`` names.

        Args:
            trainer: whose searcher is looked at.
            builder: of the training batches: documents become positions in the same way.

        Raises:
            ConfigError: the shards hold no captioned picture.
            InputError: they hold documents of another split.
        """
        config = trainer.config
        stream = StreamConfig(shards=config.validation.shards, caption_first=1.0)
        num_documents = len(taken(DocumentShards.open(stream.shards), stream))
        if not num_documents:
            raise ConfigError(f"validation.shards={stream.shards} holds no document. Prepare the val split again.")
        share = math.ceil(num_documents / dist.get_world_size())
        self._builder = replace(
            builder,
            streams=(stream.replace(per_step=num_documents),),
            seed=0,
            num_micro_batches=math.ceil(share / _DOCUMENTS_PER_PASS),
            split="val",
            held_out=(),
        )
        self._trainer = trainer
        self._features = _features(config, trainer)

    @torch.no_grad()
    def measure(self) -> dict[str, float]:
        """R@1/5/10 in percent among the split's distinct pictures, the image loss against them, and how many of the split's
        documents gave no example. All ranks call it."""
        searcher = self._trainer.searcher
        searcher.eval()
        batches = self._builder.build(0, dist.get_rank(), dist.get_world_size())
        parts = [self._embed(batch) for batch in batches]
        num_rejected = torch.tensor([sum(len(batch.rejected) for batch in batches)], device=self._trainer.device)
        searcher.train()
        queries_Qd, pictures_Qd, ids_Q = (
            torch.cat(gather_rows(torch.cat(column))).cpu() for column in zip(*parts, strict=True)
        )
        if not len(ids_Q):
            raise ConfigError(
                f"validation.shards={self._trainer.config.validation.shards} holds no picture that is asked for. Prepare captions of "
                "the val split."
            )
        distinct_N, column_Q = torch.unique(ids_Q, return_inverse=True)
        gallery_Nd = torch.empty(len(distinct_N), pictures_Qd.shape[1]).index_copy_(0, column_Q, pictures_Qd)
        scores_QN = queries_Qd @ gallery_Nd.T
        loss = F.cross_entropy(scores_QN * searcher.scale.cpu(), column_Q)
        ranks = ranks_of_targets(scores_QN.numpy(), column_Q.numpy())
        return {
            "val_image_loss": float(loss),
            "val_documents_rejected": int(gather_numbers(num_rejected).sum()),
            **{f"val_{name}": value for name, value in recalls(ranks.pessimistic_Q).items()},
        }

    def _embed(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Queries (I, d), gallery vectors (I, d) and content ids (I,) of the wanted pictures."""
        trainer = self._trainer
        searcher, device = trainer.searcher, trainer.device
        states_IH, cls_ID = image_states(searcher, batch, self._features, mixed=trainer.config.precision == "mixed")
        wanted_I = torch.from_numpy(batch.image_target).to(device)
        ids_I = torch.tensor([content_id(name) for name in batch.image_hashes], dtype=torch.int64, device=device)
        return (
            searcher.query_embedding(states_IH[wanted_I]),
            searcher.gallery_embedding(cls_ID[wanted_I]),
            ids_I[wanted_I],
        )


def _features(config: TrainConfig, trainer: Trainer) -> FrozenFeatures:
    """Those of training where they are computed online or their store holds the validation pictures too."""
    if not config.validation.features:
        return trainer.features
    return StoredFeatures(FeatureStore.open(config.validation.features), trainer.device)
