"""What the ``evaluate``, ``queries`` and ``baseline`` jobs are told. Light: nothing heavy is imported."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from chatsearch.config import Config, Names, runtime
from chatsearch.data.config import StreamConfig
from chatsearch.errors import ConfigError
from chatsearch.kinds import DUAL_ENCODER, FROMAGE
from chatsearch.model.config import HeadsConfig

Protocol = Literal["chatsearch", "text_to_image", "decision", "interaction"]
Baseline = Literal["random", "ridge", "dual_encoder", "fromage"]


class RidgeConfig(Config):
    """Bag-of-words ridge regression from caption words to the raw features of the pictures."""

    min_count: PositiveInt = 2
    """Words in fewer captions of the training split are left out."""
    max_words: PositiveInt = 8000
    """Most frequent words kept: the normal equations are solved in this width."""
    penalties: tuple[PositiveFloat, ...] = (0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
    """Candidates for lambda; the one with the best mean of R@1/5/10 on the ``val`` split is taken."""
    penalty_without_val: PositiveFloat = 3.0
    """lambda for folders without a ``val`` split."""


class EvaluateConfig(Config):
    """One measurement: a protocol, a model, and what it is measured on."""

    protocol: Protocol = "chatsearch"
    model: str = runtime("")
    """Model bundle."""
    data: str = runtime("")
    """Document shards, or a captioned folder (text_to_image)."""
    index: str = runtime("")
    """Gallery index of the model (chatsearch, interaction)."""
    features: Names = runtime(())
    """Feature stores of the same encoder, to look up pictures that are embedded already (text_to_image)."""
    baseline: str = runtime("")
    """Trained dual encoder; empty leaves that baseline out."""
    fromage: str = runtime("")
    """Trained FROMAGe; empty leaves that baseline out."""
    baselines: tuple[Baseline, ...] = ("random", "ridge", "dual_encoder", "fromage")
    """Which baselines to run beside the model, where the protocol and the data allow them."""
    split: str = ""
    """Split to measure on. Empty: ``test`` if there is one, else everything."""
    ridge: RidgeConfig = RidgeConfig()
    max_words: PositiveInt = 16
    """How long the model may talk before its answer counts as one without ``[IMG]`` (decision)."""
    max_prompts: PositiveInt = 500
    """Most prompts of each side, the first ones in the order of the shards (decision)."""
    batch_size: PositiveInt = runtime(32)
    max_rejected_fraction: float = Field(0.5, ge=0.0, le=1.0)
    """A larger share of bad records fails the job: numbers on what is left would be numbers of another set."""
    seed: int = 0
    """Of the simulated random ranking."""
    threads: PositiveInt = runtime(2)
    output: str = runtime("")
    """JSON file to write, local or ``s3://``."""
    overwrite: bool = runtime(False)
    """Replace the result of another measurement that lies at ``output``."""

    @model_validator(mode="after")
    def _check(self) -> EvaluateConfig:
        if self.output and not self.output.endswith(".json"):
            raise ConfigError(f"output={self.output!r} must name a .json file.")
        return self


class QueriesConfig(Config):
    """Dialogues through a model, up to the embeddings that it searches with."""

    data: str = runtime("")
    """Document shards with dialogues that end in a picture."""
    model: str = runtime("")
    """Model bundle."""
    output: str = runtime("")
    """Where the query vectors go."""
    max_queries: PositiveInt = 4000
    """Most dialogues that are encoded, drawn by a hash of their ids."""
    batch_size: PositiveInt = 32
    """Contexts in a forward pass. It decides the last bits of the vectors, so it is part of the fingerprint."""
    threads: PositiveInt = runtime(2)
    overwrite: bool = runtime(False)
    """Replace what an earlier run made there from other inputs or in another way."""


class PhaseConfig(Config):
    """A stretch of training on one mix of documents."""

    streams: tuple[StreamConfig, ...]
    steps: PositiveInt
    learning_rate: PositiveFloat = 1e-3
    """Peak, reached after the warm-up; cosine to zero."""
    warmup_steps: int = Field(20, ge=0)


class BaselineConfig(Config):
    """A baseline trained on the model's own documents, features and starting weights: what all baselines are told.

    URIs of inputs stay out of the fingerprint, which holds the fingerprints of what lies there instead.
    """

    KIND: ClassVar[str]
    """Of the artefact that is made."""

    weights: str = runtime("")
    """Model weights: the language model that the baseline starts from, and its tokenizer."""
    features: str = runtime("")
    """Feature store with f_CLS of every training picture."""
    phases: tuple[PhaseConfig, ...] = ()
    """As the model is trained: captions first, then dialogues. Learning rates are the baseline's own."""
    retrieval_dim: PositiveInt = 128
    max_length: PositiveInt = 77
    """Positions of a text; of longer ones the end is kept."""
    num_layers: int = Field(0, ge=0)
    """Decoder layers of the language model, the first ones of the weights; 0 takes all."""
    heads: HeadsConfig = HeadsConfig()
    """Where both projections start."""
    mixed: bool = False
    """Multiply the language model's matrices in bf16 (torch autocast), but in fp32 on a CPU without AMX or AVX-512 BF16."""
    tau0: PositiveFloat = 0.07
    max_grad_norm: PositiveFloat = 1.0
    head_multiplier: PositiveFloat = 1.0
    """Learning rate of the two projections and the temperature relative to the rest's."""
    seed: int = 0
    threads: PositiveInt = runtime(2)
    log_every: PositiveInt = runtime(10)
    output: str = runtime("")
    overwrite: bool = runtime(False)
    """Replace what an earlier run made there from other inputs or in another way."""

    @model_validator(mode="after")
    def _check(self) -> BaselineConfig:
        if self.phases and self.heads.num_steps > self.phases[0].steps:
            raise ConfigError(
                f"heads.num_steps={self.heads.num_steps} is more than the {self.phases[0].steps} steps of the first phase, whose "
                "batches the heads are fitted on. Lower it, or raise phases.0.steps."
            )
        return self


class DualEncoderTrainingConfig(BaselineConfig):
    """A CLIP-style dual encoder."""

    KIND = DUAL_ENCODER

    pooling: Literal["last", "mean"] = "last"
    """What of the text tower's states is projected: that of ``</s>``, or their mean."""
    freeze_words: bool = False
    """Word embeddings keep their starting values."""
    from_scratch: bool = False
    """The text tower is drawn at random, in the shape and with the tokenizer of the weights, instead of starting from them."""

    @model_validator(mode="after")
    def _check_start(self) -> DualEncoderTrainingConfig:
        if self.from_scratch and self.freeze_words:
            raise ConfigError("from_scratch=true draws the words at random: they must learn. Set freeze_words=false.")
        return self


class FromageTrainingConfig(BaselineConfig):
    """FROMAGe (arXiv 2301.13823): a frozen language model between linear maps, and one trained token, ``[RET]``."""

    KIND = FROMAGE

    max_length: PositiveInt = 512
    """Positions of a context with ``[RET]``, and of a row of captions."""
    num_visual_tokens: PositiveInt = 1
    """k, input embeddings of a picture. The paper takes 1."""
    caption_weight: float = Field(1.0, ge=0.0)
    """Of the captioning loss beside the retrieval loss."""
    concatenate: float = Field(0.5, ge=0.0, le=1.0)
    """How often two captioned pictures share a row of the captioning loss."""

    @model_validator(mode="after")
    def _check_length(self) -> FromageTrainingConfig:
        shortest = 2 * (self.num_visual_tokens + 4)
        if self.max_length < shortest:
            raise ConfigError(
                f"max_length={self.max_length} cannot hold two captioned pictures of num_visual_tokens={self.num_visual_tokens}; "
                f"they take at least {shortest} positions. Raise it."
            )
        return self
