"""The state of one training worker and what is done to it: one step, save, restore.

Shapes: I images of a micro-batch, D numbers of f_CLS, W ranks.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch import Tensor

from chatsearch.data.pack import PADDING, Batch
from chatsearch.errors import NonFiniteLossError, TrainingError
from chatsearch.manifest import FileEntry
from chatsearch.model.objective import IGNORE, combine
from chatsearch.model.queue import Candidates, FeatureQueue, content_id
from chatsearch.model.searcher import ChatSearcher
from chatsearch.schedule import learning_rate
from chatsearch.storage import Folder
from chatsearch.train import checkpoint
from chatsearch.train.config import TrainConfig
from chatsearch.train.deepspeed_engine import Engine, parameter_groups
from chatsearch.train.exchange import gather_images, gather_numbers
from chatsearch.train.features import FrozenFeatures
from chatsearch.train.step import MicroBatch, StepModule, Targets

FeaturesFor = Callable[[torch.device], FrozenFeatures]
"""The features of images on the device that the engine has chosen."""
NameSamples = Callable[[int, int], list[str]]
"""Document ids of a step on a rank, for messages."""
_SUMS = ("word", "image", "image_first", "num_first", "num_correct")


@dataclass(frozen=True, slots=True)
class _Encoded:
    """A batch with the features and content ids of its images, on the device."""

    batch: Batch
    cls_ID: Tensor
    tokens_IKE: Tensor
    ids_I: Tensor


class Trainer:
    """Engine and queue of one rank. The default process group is up before it is built."""

    def __init__(
        self, searcher: ChatSearcher, config: TrainConfig, features: FeaturesFor, name_samples: NameSamples
    ) -> None:
        torch.manual_seed(config.seed)
        if config.activation_checkpointing:
            searcher.enable_activation_checkpointing()
        self.config = config
        self.searcher = searcher
        self._name_samples = name_samples
        self._engine = Engine(
            StepModule(searcher, config.objective, mixed=config.precision == "mixed"),
            parameter_groups(searcher, config),
            config,
        )
        self.device = self._engine.device
        self._features = features(self.device)
        # Outside of the engine: DeepSpeed would cast its raw features to bf16, and its content is no parameter.
        self.queue = FeatureQueue(config.objective.queue_size, config.model.vision.feature_dim).to(self.device)

    def step(self, step: int, batches: Sequence[Batch]) -> dict[str, float]:
        """Make update ``step`` (from 0) from this rank's micro-batches of it.

        Returns:
            Numbers of the global step, the same on every rank: losses in nats a target, counts, norms.

        Raises:
            NonFiniteLossError: before the update, on every rank, naming the ranks it comes from.
        """
        encoded = [self._encode(batch) for batch in batches]
        counts = gather_numbers(self._counts(batches)).sum(0)
        targets = Targets(words=counts[0], images=counts[1])
        candidates = self._candidates(encoded)
        sums = torch.zeros(len(_SUMS), dtype=torch.float64, device=self.device)
        for position, (part, (pool, places_I)) in enumerate(zip(encoded, candidates, strict=True)):
            losses = self._engine.losses(self._micro_batch(part, places_I), pool, targets)
            sums += torch.stack([losses[name].double() for name in _SUMS])
            self._engine.backward(losses["loss"])
            if position < len(encoded) - 1:
                self._engine.end_micro_batch()
        sums_WS = gather_numbers(sums)
        _check_finite(sums_WS, step, self._name_samples)
        rate = self._learning_rate(step)
        grad_norm = self._engine.update(rate)
        if not torch.isfinite(torch.tensor(grad_norm)):
            raise TrainingError(
                f"The gradient of step {step} has norm {grad_norm}. Nothing of it is saved: the last checkpoint still holds. Lower "
                f"optimiser.learning_rate={self.config.optimiser.learning_rate}, or look at the step's documents."
            )
        return self._metrics(sums_WS.sum(0), counts, rate, grad_norm)

    def _learning_rate(self, step: int) -> float:
        optimiser = self.config.optimiser
        return learning_rate(
            step, peak=optimiser.learning_rate, warmup_steps=optimiser.warmup_steps, total_steps=self.config.steps
        )

    def _encode(self, batch: Batch) -> _Encoded:
        cls_ID, tokens_IKE = self._features.of(batch)
        ids = torch.tensor([content_id(name) for name in batch.image_hashes], dtype=torch.int64, device=self.device)
        return _Encoded(batch, cls_ID, tokens_IKE, ids)

    def _counts(self, batches: Sequence[Batch]) -> Tensor:
        """Word targets, image targets, documents' positions, images, and positions with padding, of this rank."""
        counts = [0, 0, 0, 0, 0]
        for batch in batches:
            wanted_I = batch.image_target
            if self.config.objective.skip_first_images:
                wanted_I = wanted_I & ~batch.image_first
            filled = int((batch.document_ids != PADDING).sum())
            values = (int((batch.labels != IGNORE).sum()), int(wanted_I.sum()), filled, batch.num_images)
            counts = [a + b for a, b in zip(counts, (*values, batch.labels.size), strict=True)]
        return torch.tensor(counts, dtype=torch.int64, device=self.device)

    def _candidates(self, encoded: Sequence[_Encoded]) -> list[tuple[Candidates, Tensor]]:
        """Candidates of each micro-batch and the index of its images among them.

        With a queue: all images of the global step enter before its first loss, and all micro-batches share the result.
        """
        if not self.config.objective.queue_size:
            pools = [Candidates.only(part.cls_ID, part.ids_I) for part in encoded]
            return [(pool, pool.slots_N) for pool in pools]
        ordinals = torch.cat([torch.from_numpy(part.batch.image_sample) for part in encoded]).to(self.device)
        images = gather_images(
            torch.cat([part.cls_ID for part in encoded]), torch.cat([part.ids_I for part in encoded]), ordinals
        )
        pool, places_I = images.enqueue(self.queue)
        return [(pool, places) for places in places_I.split([len(part.ids_I) for part in encoded])]

    def _micro_batch(self, part: _Encoded, places_I: Tensor) -> MicroBatch:
        def tensor(array: Any) -> Tensor:
            return torch.from_numpy(array).to(self.device)

        batch = part.batch
        return MicroBatch(
            input_ids_RL=tensor(batch.input_ids),
            labels_RL=tensor(batch.labels),
            position_ids_RL=tensor(batch.position_ids),
            image_row_I=tensor(batch.image_row),
            image_col_I=tensor(batch.image_col),
            image_target_I=tensor(batch.image_target),
            image_first_I=tensor(batch.image_first),
            candidate_I=places_I,
            cls_ID=part.cls_ID,
            tokens_IKE=part.tokens_IKE,
        )

    def _metrics(self, sums: Tensor, counts: Tensor, rate: float, grad_norm: float) -> dict[str, float]:
        word, image, image_first, num_first, num_correct = sums.tolist()
        num_words, num_images, num_positions, images, slots = counts.tolist()
        loss = combine(sums[0], sums[1], counts[0], counts[1], self.config.objective)
        return {
            "loss": float(loss),
            "word_loss": word / max(num_words, 1),
            "image_loss": image / max(num_images, 1),
            "image_loss_first": image_first / max(num_first, 1.0),
            "image_accuracy": num_correct / max(num_images, 1),
            "tau": 1.0 / float(self.searcher.scale.detach()),
            "learning_rate": rate,
            "grad_norm": grad_norm,
            "num_tokens": num_positions,
            "num_images": images,
            "slot_fill": num_positions / slots,
            "queue_fill": int(self.queue.count) / max(self.queue.size, 1),
        }

    # ---- checkpoints ----------------------------------------------------------------------------------------

    def save(self, target: Folder) -> dict[str, FileEntry]:
        """Write this rank's part of a checkpoint; returns the files of all ranks. All ranks call it."""
        scratch = tempfile.mkdtemp(prefix="chatsearch-checkpoint-")
        try:
            self._engine.save(str(Path(scratch, checkpoint.STATE_FOLDER)))
            save_file(self._rank_state(), Path(scratch, checkpoint.rank_file(dist.get_rank())))
            mine = checkpoint.upload(scratch, target)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        every: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(every, mine)
        return {name: entry for entries in every for name, entry in entries.items()}

    def restore(self, saved: checkpoint.SavedCheckpoint) -> None:
        """Go back to a verified checkpoint. All ranks call it."""
        with tempfile.TemporaryDirectory(prefix="chatsearch-checkpoint-") as scratch:
            folder = saved.fetch(scratch)
            self._engine.load(str(folder / checkpoint.STATE_FOLDER))
            state = load_file(folder / checkpoint.rank_file(dist.get_rank()))
        self.queue.load_state_dict({name[6:]: value for name, value in state.items() if name.startswith("queue.")})
        torch.set_rng_state(state["random_cpu"])
        if "random_cuda" in state:
            torch.cuda.set_rng_state(state["random_cuda"], self.device)

    def _rank_state(self) -> dict[str, Tensor]:
        """Queue and random states. Only torch draws here: what the data draws is a function of seed, document and epoch."""
        state = {f"queue.{name}": value.cpu() for name, value in self.queue.state_dict().items()}
        state["random_cpu"] = torch.get_rng_state()
        if self.device.type == "cuda":
            state["random_cuda"] = torch.cuda.get_rng_state(self.device)
        return state

    def export(self, saved: checkpoint.SavedCheckpoint) -> ChatSearcher:
        """The searcher in fp32 on the CPU, from the masters of a verified checkpoint. One rank calls it."""
        with tempfile.TemporaryDirectory(prefix="chatsearch-export-") as scratch:
            folder = saved.fetch(scratch) / checkpoint.STATE_FOLDER
            weights = self._engine.full_precision_weights(str(folder), prefix="searcher.")
        searcher = ChatSearcher(self.config.model)
        searcher.load_state_dict(weights, strict=True)
        return searcher.eval()


def _check_finite(sums_WS: Tensor, step: int, name_samples: NameSamples) -> None:
    bad = (~torch.isfinite(sums_WS)).any(dim=1).nonzero().flatten().tolist()
    if bad:
        where = "; ".join(f"rank {rank} with documents {', '.join(name_samples(step, rank))}" for rank in bad)
        raise NonFiniteLossError(
            f"The loss of step {step} is not finite on {where}. The weights were not updated and the last checkpoint holds. Look at "
            "these documents, or lower optimiser.learning_rate."
        )
