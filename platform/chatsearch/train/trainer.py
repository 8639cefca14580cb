"""The state of one training worker and what is done to it: one step, snapshot, restore.

Shapes: I images of a micro-batch, D numbers of f_CLS, W ranks.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from chatsearch.data.pack import PADDING, Batch
from chatsearch.data.rejections import SHOWN, Rejections
from chatsearch.errors import CorruptArtefactError, FingerprintMismatchError, NonFiniteLossError, TrainingError
from chatsearch.model.config import ObjectiveConfig
from chatsearch.model.lora import add_adapters, merge_adapters
from chatsearch.model.objective import IGNORE, combine
from chatsearch.model.queue import Candidates, FeatureQueue, content_id
from chatsearch.model.searcher import ChatSearcher
from chatsearch.schedule import learning_rate
from chatsearch.train import checkpoint
from chatsearch.train.checkpoint import CheckpointManifest, SavedCheckpoint
from chatsearch.train.config import TrainConfig
from chatsearch.train.deepspeed_engine import Engine, parameter_groups
from chatsearch.train.exchange import gather_images, gather_numbers
from chatsearch.train.features import FrozenFeatures
from chatsearch.train.state import TensorFile, joined_weights, read_tensors, restore, snapshot
from chatsearch.train.step import MicroBatch, StepModule, Targets
from chatsearch.train.stopwatch import Stopwatch
from chatsearch.train.volume import Volume

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

    def micro_batch(self, places_I: Tensor) -> MicroBatch:
        """With the places of its images among the candidates."""
        return MicroBatch.of(self.batch, places_I, self.cls_ID, self.tokens_IKE)


@dataclass(frozen=True, slots=True)
class StepCost:
    """What a step took, beside its results: figures of the machine, which a repeated step need not repeat."""

    volume: Volume
    """Of the global step."""
    queue_seconds: float
    """Gathering the images of all ranks, letting them into the queue and laying out the candidates, on this rank."""


class Trainer:
    """Engine and queue of one rank. The default process group is up before it is built."""

    def __init__(
        self, searcher: ChatSearcher, config: TrainConfig, features: FeaturesFor, name_samples: NameSamples
    ) -> None:
        torch.manual_seed(config.seed)
        add_adapters(searcher, config.lora, seed=config.seed)
        if config.activation_checkpointing:
            searcher.enable_activation_checkpointing()
        searcher.language.attention = config.attention
        self.config = config
        self.searcher = searcher
        self._name_samples = name_samples
        self._copies: dict[str, TensorFile] = {}
        self._engine = Engine(
            StepModule(searcher, config.objective, mixed=config.precision == "mixed"),
            parameter_groups(searcher, config),
            config,
        )
        self.device = self._engine.device
        self.features = features(self.device)
        self._stopwatch = Stopwatch(self.device)
        self._volume = Volume()
        self._rejections = Rejections(config.max_rejected_fraction)
        # Outside of the engine: DeepSpeed would cast its raw features to bf16, and its content is no parameter.
        self.queue = FeatureQueue(config.objective.queue_size, config.model.vision.feature_dim).to(self.device)

    def step(self, step: int, batches: Sequence[Batch]) -> dict[str, float]:
        """Make update ``step`` (from 0) from this rank's micro-batches of it.

        Returns:
            Numbers of the global step, the same on every rank: losses in nats a target, counts, norms.

        Raises:
            TooManyRejectedError: before the update, on every rank.
            NonFiniteLossError: before the update, on every rank, naming the ranks it comes from.
        """
        encoded = [self._encode(batch) for batch in batches]
        counts = gather_numbers(self._counts(batches)).sum(0)
        self._check_rejected(batches, int(counts[-1]))
        targets = Targets(words=counts[0], images=counts[1])
        with self._stopwatch.running():
            candidates = self._candidates(encoded)
        sums = torch.zeros(len(_SUMS), dtype=torch.float64, device=self.device)
        for position, (part, (pool, places_I)) in enumerate(zip(encoded, candidates, strict=True)):
            losses = self._engine.losses(part.micro_batch(places_I), pool, targets)
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

    @property
    def cost(self) -> StepCost:
        """Of the last step."""
        return StepCost(self._volume, self._stopwatch.seconds)

    def rehearse(self, batch: Batch) -> None:
        """A micro-batch forward and backward. Weights, gradients, optimiser, queue and random states stay as they are."""
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices):
            part = self._encode(batch)
            num_images = len(part.ids_I)
            num_candidates = max(self.config.objective.queue_size, num_images)
            features_CD = part.cls_ID.new_ones(num_candidates, part.cls_ID.shape[1])
            places = torch.arange(num_candidates, device=self.device)
            pool = Candidates(features_CD, places, torch.ones_like(places, dtype=torch.bool), places[:num_images])
            counts = self._counts([batch])
            targets = Targets(words=counts[0], images=counts[1])
            self._engine.rehearse(part.micro_batch(pool.slots_N), pool, targets)

    def _learning_rate(self, step: int) -> float:
        optimiser = self.config.optimiser
        return learning_rate(
            step, peak=optimiser.learning_rate, warmup_steps=optimiser.warmup_steps, total_steps=self.config.steps
        )

    def _encode(self, batch: Batch) -> _Encoded:
        cls_ID, tokens_IKE = self.features.of(batch)
        ids = torch.tensor([content_id(name) for name in batch.image_hashes], dtype=torch.int64, device=self.device)
        return _Encoded(batch, cls_ID, tokens_IKE, ids)

    def _counts(self, batches: Sequence[Batch]) -> Tensor:
        """Of this rank: word targets, image targets, documents' positions, images, positions with padding, the squares of
        documents' lengths, and documents without an example."""
        counts = [0, 0, 0, 0, 0, 0, 0]
        for batch in batches:
            filled_RL = batch.document_ids != PADDING
            values = (*num_targets(batch, self.config.objective), int(filled_RL.sum()), batch.num_images)
            # A position at p within its document adds 2p + 1, and a document of n positions n squared.
            squares = int((2 * batch.position_ids + 1)[filled_RL].sum())
            more = (*values, batch.labels.size, squares, len(batch.rejected))
            counts = [a + b for a, b in zip(counts, more, strict=True)]
        return torch.tensor(counts, dtype=torch.int64, device=self.device)

    def _check_rejected(self, batches: Sequence[Batch], num_rejected: int) -> None:
        """Count the global step's rejected documents. The counts are the same on all ranks: they stop together or not at all."""
        self._rejections.add(self.config.per_step, num_rejected)
        if self._rejections.too_many:
            reasons: list[list[str]] = [[]] * dist.get_world_size()
            dist.all_gather_object(reasons, [reason for batch in batches for reason in batch.rejected][:SHOWN])
            raise self._rejections.error(self.config.documents, [reason for part in reasons for reason in part])

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

    def _metrics(self, sums: Tensor, counts: Tensor, rate: float, grad_norm: float) -> dict[str, float]:
        word, image, image_first, num_first, num_correct = sums.tolist()
        num_words, num_images, num_positions, images, slots, pairs, _ = counts.tolist()
        self._volume = Volume(self.config.per_step, images, num_positions, num_words, pairs)
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
            "documents_rejected": self._rejections.num_rejected,
        }

    # ---- checkpoints ----------------------------------------------------------------------------------------

    def snapshot(self) -> list[TensorFile]:
        """Copies of what this rank writes into a checkpoint. They stay as they are while steps go on, up to the next call."""
        rank, world_size = dist.get_rank(), dist.get_world_size()
        pieces = self._engine.pieces()
        if not self.config.zero_stage:
            pieces = pieces[rank::world_size]  # every rank holds all: each writes a share
        own, common = checkpoint.rank_file(rank), checkpoint.COMMON_FILE
        files = {own: snapshot(own, pieces, self._random_states(), self._copies.get(own))}
        if rank == 0:
            files[common] = snapshot(common, [], self.queue.state_dict(), self._copies.get(common))
        self._copies = files
        return list(files.values())

    def restore(self, saved: SavedCheckpoint) -> None:
        """Go back to a checkpoint that was found whole, written by any number of ranks. All ranks call it.

        Raises:
            StorageError: its store failed; nothing has changed, and it may be called again.
            CorruptArtefactError: part of the state is not in it, named.
            FingerprintMismatchError: it was made with another schedule of learning rates.
        """
        self._check_schedule(saved.manifest)
        self._rejections = Rejections(
            self.config.max_rejected_fraction,
            num_documents=saved.manifest.step * self.config.per_step,
            num_rejected=int(saved.manifest.metrics.get("documents_rejected", 0)),
        )
        rank = dist.get_rank()
        own = checkpoint.rank_file(rank)
        as_written = saved.manifest.world_size == dist.get_world_size()
        ranks = [own] if as_written and self.config.zero_stage else saved.rank_files()
        with tempfile.TemporaryDirectory(prefix="chatsearch-checkpoint-") as scratch:
            folder = saved.fetch([*ranks, checkpoint.COMMON_FILE], scratch)
            restore(self._engine.pieces(), [folder / name for name in ranks])
            self.queue.load_state_dict(read_tensors(folder / checkpoint.COMMON_FILE, self.queue.state_dict()))
            # Nothing draws at random where the number of ranks may change (TrainConfig.is_elastic).
            random = read_tensors(folder / own, self._random_states()) if as_written else {}
        self._engine.spread_weights()
        if as_written:
            torch.set_rng_state(random["random_cpu"])
            if self.device.type == "cuda":
                torch.cuda.set_rng_state(random["random_cuda"], self.device)

    def _check_schedule(self, manifest: CheckpointManifest) -> None:
        """The rate is a function of the step. Where the last one differs, so would all that follow."""
        expected = self._learning_rate(manifest.step - 1)
        made_with = manifest.metrics.get("learning_rate")
        if made_with != expected:
            raise FingerprintMismatchError(
                f"The checkpoint of step {manifest.step} was made with learning rate {made_with}, this version's schedule gives "
                f"{expected}. Go on with the version that wrote it ({manifest.versions}), or start anew with --set overwrite=true."
            )

    def _random_states(self) -> dict[str, Tensor]:
        """Only torch draws here: what the data draws is a function of seed, document and epoch."""
        states = {"random_cpu": torch.get_rng_state()}
        if self.device.type == "cuda":
            states["random_cuda"] = torch.cuda.get_rng_state(self.device)
        return states

    def export(self, saved: SavedCheckpoint) -> ChatSearcher:
        """The searcher in fp32 on the CPU, from the masters of a whole checkpoint, without adapters. One rank calls it.

        Raises:
            StorageError: its store failed.
            CorruptArtefactError: a trained weight is not in it.
        """
        with tempfile.TemporaryDirectory(prefix="chatsearch-export-") as scratch:
            folder = saved.fetch(saved.rank_files(), scratch)
            masters = joined_weights(folder / name for name in saved.rank_files())
        searcher = ChatSearcher(self.config.model)
        add_adapters(searcher, self.config.lora, seed=self.config.seed)
        searcher.load_state_dict({k: v.float().cpu() for k, v in self.searcher.state_dict().items()}, strict=True)
        for name, parameter in searcher.named_parameters():
            if not parameter.requires_grad:
                continue
            held = masters.get(f"searcher.{name}")
            if held is None or len(held) != parameter.numel():
                raise CorruptArtefactError(f"{saved.folder} has no weight {name} of this model. Delete it.")
            parameter.data.copy_(held.view_as(parameter))
        merge_adapters(searcher)
        return searcher.eval()


def num_targets(batch: Batch, objective: ObjectiveConfig) -> tuple[int, int]:
    """Words and images of a batch that the loss falls on."""
    wanted_I = batch.image_target & ~batch.image_first if objective.skip_first_images else batch.image_target
    return int((batch.labels != IGNORE).sum()), int(wanted_I.sum())


def _check_finite(sums_WS: Tensor, step: int, name_samples: NameSamples) -> None:
    bad = (~torch.isfinite(sums_WS)).any(dim=1).nonzero().flatten().tolist()
    if bad:
        where = "; ".join(f"rank {rank} with documents {', '.join(name_samples(step, rank))}" for rank in bad)
        raise NonFiniteLossError(
            f"The loss of step {step} is not finite on {where}. The weights were not updated and the last checkpoint holds. Look at "
            "these documents, or lower optimiser.learning_rate."
        )
