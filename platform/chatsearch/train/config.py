"""What the ``train`` job is told. Light: nothing heavy is imported."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from chatsearch.config import Config, Names, runtime
from chatsearch.data.config import LoaderConfig, StreamConfig
from chatsearch.errors import ConfigError
from chatsearch.model.config import Attention, HeadsConfig, LoraConfig, ObjectiveConfig, SceneCnnConfig, SearcherConfig
from chatsearch.model.size import projection_shapes

TRAINED_PARTS = (
    "language",
    "control_tokens",
    "perceiver",
    "input_cls",
    "input_queries",
    "query_head",
    "gallery_head",
    "log_scale",
)
"""The names under which learning rates may differ: top-level parts of the searcher, and within the language model the rows
of ``[IMG]`` and ``[/IMG]``, which start untrained beside pretrained words."""


class OptimiserConfig(Config):
    """AdamW with linear warm-up and cosine decay to zero."""

    learning_rate: PositiveFloat = 2e-5
    """Peak, reached at the end of the warm-up."""
    warmup_steps: int = Field(0, ge=0)
    betas: tuple[float, float] = (0.9, 0.999)
    epsilon: PositiveFloat = 1e-8
    weight_decay: float = Field(0.0, ge=0.0)
    max_grad_norm: PositiveFloat = 1.0
    """Gradients are scaled down to this global norm."""
    multipliers: dict[str, PositiveFloat] = {}
    """Learning rate of a part of the searcher relative to the others, by name: ``{"gallery_head": 10}``."""

    @model_validator(mode="after")
    def _check(self) -> OptimiserConfig:
        unknown = sorted(set(self.multipliers) - set(TRAINED_PARTS))
        if unknown:
            raise ConfigError(
                f"multipliers names {unknown[0]!r}, which is no part of the searcher. Take {', '.join(TRAINED_PARTS)}."
            )
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ConfigError(f"betas={self.betas} must lie in [0, 1).")
        return self


class PlanConfig(Config):
    """What ``--dry-run`` reckons with. It changes nothing but the figures of the plan."""

    device: Literal["auto", "a100-40gb", "a100-80gb", "h100-80gb", "h200-141gb", "cpu-core"] = runtime("auto")
    """``auto`` takes ``a100-80gb`` with ``use_gpu``, else ``cpu-core``."""
    mfu: float = runtime(0.4, gt=0.0, le=1.0)
    """Share of the device's peak that is taken to be reached."""
    caption_tokens: PositiveInt = runtime(14)
    """Of a caption's text, where there are no shards to look at: CC3M's have 10 words on average."""
    document_images: PositiveInt = runtime(4)
    """Of an interleaved document, likewise: mmc4-core has 29.9M in 7.3M documents. It is taken to fill ``max_length``."""
    dialogue_tokens: PositiveInt = runtime(250)
    """Of a dialogue's text, likewise; a guess. It is taken to hold one image."""


class ValidationConfig(Config):
    """Text to image on held-out captioned pictures while training goes on: a curve beside the losses. It changes no weight."""

    shards: str = runtime("")
    """Document shards of the split ``val``; empty looks at nothing."""
    features: str = runtime("")
    """Feature store with their pictures; empty takes them where training takes its own."""
    every: PositiveInt = runtime(100)
    """Steps from one look to the next; there is one after the last step too."""


class TrainConfig(Config):
    """One stage of training.

    URIs of inputs stay out of the fingerprint, which holds the fingerprints of what lies there instead.
    """

    data: str = runtime("")
    """Captioned folder of photographs. What ``weights``, ``features`` and ``streams`` do not name is then made from its
    training split first, in folders beside the output."""
    stage: str = "align"
    """Label of the stage in plans and tracking."""
    weights: str = runtime("")
    """Where the run starts: model weights (stage 1) or a model bundle (stage 2 goes on from stage 1)."""
    features: str = runtime("")
    """Feature store with f_CLS and tokens of every picture; empty runs the frozen encoder in the workers."""
    model: SearcherConfig = SearcherConfig()
    lora: LoraConfig = LoraConfig()
    """Adapters to train in place of the language model; what is exported has them merged."""
    objective: ObjectiveConfig = ObjectiveConfig()
    streams: tuple[StreamConfig, ...] = ()
    """Documents and how many of each go into a global step."""
    held_out: Names = runtime(())
    """Document shards that the model is going to be measured on. Before the first step training tells how many of its documents
    show pictures of theirs, byte for byte."""
    decontaminate: bool = False
    """Leave such documents out of training."""
    steps: PositiveInt = 1000
    heads: HeadsConfig = HeadsConfig()
    """Looked at where a stage starts from model weights; a model bundle brings its heads."""
    scale_image_inputs: bool = False
    """Start W_c and W_q so that pictures enter as large as words do; looked at where ``heads`` is."""
    loader: LoaderConfig = runtime(LoaderConfig())
    max_length: PositiveInt = 512
    """Positions of a packed row, and the most that one document may take."""
    answer_only: bool = False
    """Loss on the assistant's answers alone (stage 2) instead of on everything (stage 1). Of a caption document what comes
    second is the answer."""
    optimiser: OptimiserConfig = OptimiserConfig()
    precision: Literal["fp32", "mixed", "bf16"] = "fp32"
    """``mixed`` keeps fp32 weights and gradients and multiplies matrices in bf16 (torch autocast), but in fp32 on a CPU without AMX or AVX-512 BF16; ``bf16`` holds bf16 weights with fp32 masters (DeepSpeed)."""
    zero_stage: Literal[0, 1, 2] = 1
    accumulation: PositiveInt = 1
    """Micro-batches per worker and step; they share one queue update."""
    activation_checkpointing: bool = False
    attention: Attention = runtime("auto")
    """``auto`` takes ``varlen`` (FlashAttention over packed documents) in bf16 on a GPU, ``buckets`` (documents of about one length
    side by side) on a CPU, else ``sdpa`` under a mask."""
    num_workers: int = runtime(1, ge=0, le=4096)
    """Data-parallel workers. 0 runs the loop in this process, without a cluster. A run that :attr:`is_elastic` may be
    continued with another number."""
    min_workers: int | None = runtime(None, ge=1)
    """With it the run makes do with any number of workers from this one up to ``num_workers``: it goes on with fewer when nodes
    are lost, and takes in new ones. Each worker then holds the CPUs of its data tasks too. Plans reckon with ``num_workers``."""
    resize_every_s: PositiveFloat = runtime(60.0)
    """How often a run with ``min_workers`` looks for room for more workers. To take them in it goes back to its newest
    checkpoint."""
    use_gpu: bool = False
    seed: int = 0
    checkpoint_every: PositiveInt = runtime(500)
    """In steps. The last step is always kept. From the first on, each worker holds a copy of its share of fp32 weights and
    moments in host memory (12 bytes a trained parameter, under ZeRO 1 and 2 divided by the workers)."""
    keep_checkpoints: PositiveInt = runtime(2)
    max_failures: int = runtime(3, ge=0)
    """Worker deaths from which the run recovers by itself. Nodes whose end the cloud announces to Ray do not count."""
    store_patience_s: float = runtime(600.0, ge=0.0, le=1200.0)
    """How long a run waits for an object store that has gone away: where it reads, and for its last checkpoint and the bundle. A
    checkpoint before the last is tried until the next is due, while steps go on. Workers wait for each other for 30 minutes."""
    max_rejected_fraction: float = runtime(0.05, ge=0.0, le=1.0)
    """The run fails when a larger share of its documents, and more than ten of them, gives no example."""
    cpus_per_worker: PositiveFloat = runtime(1.0)
    threads_per_worker: PositiveInt = runtime(1)
    autoscaling: bool = runtime(False)
    """The cluster adds nodes by itself: ask for workers that it cannot hold yet."""
    log_every: PositiveInt = runtime(10)
    """Steps between two points of the tracked series."""
    validation: ValidationConfig = runtime(ValidationConfig())
    plan: PlanConfig = runtime(PlanConfig())
    registered_name: str = runtime("chatsearch")
    """Model of the registry that the bundle is entered into as a version, with the stage as its alias; empty enters it nowhere."""
    output: str = runtime("")
    overwrite: bool = runtime(False)
    """Replace what an earlier run made there from other inputs or in another way."""

    @property
    def per_step(self) -> int:
        """Documents in a global step."""
        return sum(stream.per_step for stream in self.streams)

    @property
    def documents(self) -> str:
        """What is trained on, for people."""
        stage = f"stage {self.stage}" + (" (answer_only=true)" if self.answer_only else "")
        return f"{stage} from {', '.join(stream.shards for stream in self.streams)}"

    @property
    def world_size(self) -> int:
        """Processes that share a step."""
        return max(self.num_workers, 1)

    @property
    def is_elastic(self) -> bool:
        """Whether the number of workers changes nothing but the rounding of sums.

        Samples, queue and loss are those of the global step. Two settings go by the worker instead: without a queue the
        negatives are the local mini-batch's, and dropout is drawn from a generator a worker.
        """
        return self.objective.queue_size > 0 and self.model.perceiver.dropout == 0

    def validates_after(self, num_steps: int) -> bool:
        """Whether held-out pictures are looked for after so many updates."""
        return bool(self.validation.shards) and (num_steps % self.validation.every == 0 or num_steps == self.steps)

    def content(self) -> dict[str, Any]:
        """The fields that decide the weights; among them the number of workers where the run is not elastic."""
        content = super().content()
        if not self.lora.rank:
            del content["lora"]  # what is not used decides nothing
        if not self.decontaminate:
            del content["decontaminate"]
        return {**content, **({} if self.is_elastic else {"world_size": self.world_size})}

    @model_validator(mode="after")
    def _check(self) -> TrainConfig:
        if self.optimiser.warmup_steps > self.steps:
            raise ConfigError(
                f"warmup_steps={self.optimiser.warmup_steps} is more than steps={self.steps}: the rate would never peak."
            )
        if self.streams and self.per_step < self.world_size * self.accumulation:
            raise ConfigError(
                f"A step of {self.per_step} documents cannot feed {self.world_size} workers x {self.accumulation} "
                "micro-batches. Raise per_step, or lower num_workers or accumulation."
            )
        if self.decontaminate and not self.held_out:
            raise ConfigError(
                "decontaminate=true, but no shards are held out. Name those the model is measured on with --set held_out=URI."
            )
        if self.min_workers is not None:
            self._check_range(self.min_workers)
        if self.precision == "bf16" and self.zero_stage == 0:
            raise ConfigError(
                "bf16 needs the fp32 master weights of ZeRO. Set zero_stage to 1 or 2, or precision to fp32."
            )
        if self.lora.rank:
            self._check_lora()
        if self.max_length < self.model.block_length:
            raise ConfigError(
                f"max_length={self.max_length} cannot hold an image block of {self.model.block_length} positions. Raise it."
            )
        return self

    def _check_lora(self) -> None:
        if self.model.freeze_language:
            raise ConfigError(
                f"model.freeze_language=true keeps the language model as it is, lora.rank={self.lora.rank} changes it. Set one of "
                "the two back."
            )
        shapes = projection_shapes(self.model.language)
        narrowest = min(min(shapes[name]) for name in self.lora.projections)
        if self.lora.rank >= narrowest:
            raise ConfigError(
                f"lora.rank={self.lora.rank} is no low rank: the narrowest matrix it adapts has {narrowest} rows or columns. Lower "
                "it, or name other lora.projections."
            )

    def _check_range(self, min_workers: int) -> None:
        if min_workers > self.num_workers:
            raise ConfigError(
                f"min_workers={min_workers} is more than num_workers={self.num_workers}, the most. Lower it or raise num_workers."
            )
        if not self.is_elastic:
            cause = (
                f"model.perceiver.dropout={self.model.perceiver.dropout} is drawn by the worker"
                if self.objective.queue_size
                else "without a queue (objective.queue_size=0) the negatives are the worker's own images"
            )
            raise ConfigError(
                f"min_workers={min_workers} lets the number of workers change, but {cause}: the result would depend on it. Leave "
                "min_workers unset, or take a queue and no dropout."
            )


class VisionTrainingConfig(Config):
    """The warm start of the scenes' vision encoder: learn the ground truth of drawn pictures."""

    encoder: SceneCnnConfig = SceneCnnConfig()
    num_crowded: PositiveInt = 9000
    """Pictures with up to nine objects, seen first."""
    crowded_epochs: PositiveInt = 3
    num_pictures: PositiveInt = 6000
    """Pictures of the world as it is, seen last."""
    epochs: PositiveInt = 2
    batch_size: PositiveInt = 32
    """Small batches: the number of updates counts for more than their size here."""
    learning_rate: PositiveFloat = 4e-3
    """Peak of the one-cycle schedule."""
    num_test_pictures: PositiveInt = 1000
    seed: int = 0


class LanguageTrainingConfig(Config):
    """The warm start of the tiny language model: next word on the scenes' own text."""

    vocab_size: PositiveInt = 1000
    hidden_size: PositiveInt = 160
    intermediate_size: PositiveInt = 480
    num_layers: PositiveInt = 2
    num_heads: PositiveInt = 4
    max_positions: PositiveInt = 1024
    num_documents: PositiveInt = 8000
    steps: int = Field(100, ge=0)
    batch_size: PositiveInt = 16
    """Rows in a step."""
    length: PositiveInt = 128
    """Positions of a row."""
    learning_rate: PositiveFloat = 3e-3
    seed: int = 0


class TinyWeightsConfig(Config):
    """Starting weights of the ``tiny`` size, made here because nobody publishes any for the scenes."""

    vision: VisionTrainingConfig = VisionTrainingConfig()
    language: LanguageTrainingConfig = LanguageTrainingConfig()
    threads: PositiveInt = runtime(2)
    output: str = runtime("")
    overwrite: bool = runtime(False)
    """Replace what an earlier run made there from other inputs or in another way."""
