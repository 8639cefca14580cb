"""How large a model is, told from its configuration alone: parameters by part, and the matrices a FLOP count needs.

Exact: a test holds every number here against the real modules. Nothing heavy is imported.
"""

from __future__ import annotations

from dataclasses import dataclass

from chatsearch.model.config import (
    NUM_CONTROL_TOKENS,
    ClipConfig,
    EfficientNetLite0Config,
    LanguageConfig,
    LoraConfig,
    PerceiverConfig,
    Projection,
    SceneCnnConfig,
    SearcherConfig,
    VisionConfig,
)

WITHOUT_LORA = LoraConfig()
EFFICIENTNET_LITE0_PARAMETERS = 3_350_000
"""With batch norms folded in and without classifier: there is one shape only."""
EFFICIENTNET_LITE0_FLOPS_A_TOKEN = 15_669_696
"""Of a square of 32 pixels."""


@dataclass(frozen=True, slots=True)
class Part:
    """Parameters of one part of the model."""

    name: str
    parameters: int
    trained: int

    @property
    def frozen(self) -> int:
        """Parameters that keep their values."""
        return self.parameters - self.trained


@dataclass(frozen=True, slots=True)
class PerceiverMatrices:
    """Weights of the Q-Former's matrices by what goes through them."""

    queries: int
    """Each of the N queries of a picture."""
    picture: int
    """Each token of a picture: keys and values of the layers that look at it."""
    num_looking: int
    """Layers that look at the picture."""


def searcher_parts(config: SearcherConfig, lora: LoraConfig = WITHOUT_LORA) -> tuple[Part, ...]:
    """Everything that :class:`chatsearch.model.searcher.ChatSearcher` holds while it is trained, with its adapters.

    The frozen encoder is not in it.
    """
    hidden, feature, queries = config.language.hidden_size, config.vision.feature_dim, config.perceiver.hidden_size
    perceiver = _perceiver_parameters(config)
    projectors = feature * hidden + hidden + queries * hidden + hidden
    heads = (hidden + feature) * config.retrieval_dim + 1  # the last one is the temperature
    return (
        _language_part(config, lora),
        Part("perceiver", perceiver, perceiver),
        Part("projectors", projectors, projectors),
        Part("heads", heads, heads),
    )


def _language_part(config: SearcherConfig, lora: LoraConfig) -> Part:
    language = config.language
    hidden = language.hidden_size
    layers = decoder_matrices(language) + 2 * hidden * language.num_layers + hidden  # matrices, then norms
    copies = 1 if language.tie_embeddings else 2  # input embeddings and M_t
    words, control = copies * language.vocab_size * hidden, copies * NUM_CONTROL_TOKENS * hidden
    adapters = adapter_matrices(language, lora)
    trained = control + adapters
    if not config.freeze_language and not lora.rank:
        trained += layers + (0 if config.freeze_words else words)
    return Part("language model", layers + words + control + adapters, trained)


def decoder_matrices(config: LanguageConfig) -> int:
    """Weights of the matrices that each position goes through in the decoder: without embeddings, norms and M_t."""
    return config.num_layers * sum(outputs * inputs for outputs, inputs in projection_shapes(config).values())


def adapter_matrices(config: LanguageConfig, lora: LoraConfig) -> int:
    """Weights of A and B of all adapters."""
    shapes = projection_shapes(config)
    return config.num_layers * lora.rank * sum(sum(shapes[name]) for name in lora.projections)


def projection_shapes(config: LanguageConfig) -> dict[Projection, tuple[int, int]]:
    """Outputs and inputs of the matrices of a decoder layer."""
    hidden, wide = config.hidden_size, config.intermediate_size
    keys = hidden // config.num_heads * config.num_key_value_heads
    return {
        "q_proj": (hidden, hidden),
        "k_proj": (keys, hidden),
        "v_proj": (keys, hidden),
        "o_proj": (hidden, hidden),
        "gate_proj": (wide, hidden),
        "up_proj": (wide, hidden),
        "down_proj": (hidden, wide),
    }


def perceiver_matrices(config: PerceiverConfig, token_dim: int) -> PerceiverMatrices:
    """Weights of the Q-Former's matrices; ``token_dim`` is the width of what it looks at."""
    width = config.hidden_size
    num_looking = -(-config.num_layers // config.cross_attention_frequency)
    layer = 4 * width * width + 2 * width * config.intermediate_size
    return PerceiverMatrices(
        queries=config.num_layers * layer + num_looking * 2 * width * width,
        picture=num_looking * 2 * token_dim * width,
        num_looking=num_looking,
    )


def _perceiver_parameters(config: SearcherConfig) -> int:
    perceiver, token_dim = config.perceiver, config.vision.token_dim
    width = perceiver.hidden_size
    matrices = perceiver_matrices(perceiver, token_dim)
    biases_and_norms = (
        perceiver.num_layers * (9 * width + perceiver.intermediate_size) + matrices.num_looking * 6 * width
    )
    outside = config.num_queries * width + 2 * token_dim + 2 * width  # query tokens, norm of the tokens, last norm
    return matrices.queries + matrices.picture + biases_and_norms + outside


def vision_parameters(config: VisionConfig) -> int:
    """Parameters of the frozen encoder."""
    match config:
        case SceneCnnConfig():
            norms = 2 * sum(layer.outputs for layer in _scene_layers(config) if not layer.biased)
            biases = config.cell_dim + config.global_dim
            return sum(layer.weights for layer in _scene_layers(config)) + norms + biases + 2 * config.feature_dim
        case EfficientNetLite0Config():
            return EFFICIENTNET_LITE0_PARAMETERS
        case ClipConfig():
            hidden, patches = config.hidden_size, 3 * config.patch_size**2
            layer = _clip_layer(config) + 9 * hidden + config.intermediate_size  # matrices, then biases and norms
            embeddings = patches * hidden + (1 + config.num_tokens) * hidden
            return embeddings + config.num_layers * layer + 4 * hidden


def vision_flops(config: VisionConfig) -> int:
    """FLOPs of one picture through the frozen encoder, two a multiply-add: forward only."""
    match config:
        case SceneCnnConfig():
            return sum(2 * layer.weights * layer.places for layer in _scene_layers(config))
        case EfficientNetLite0Config():
            return EFFICIENTNET_LITE0_FLOPS_A_TOKEN * config.num_tokens
        case ClipConfig():
            tokens, hidden = config.num_tokens, config.hidden_size
            patches = 2 * 3 * config.patch_size**2 * hidden * (tokens - 1)
            layer = 2 * _clip_layer(config) * tokens + 4 * hidden * tokens**2
            return patches + config.num_layers * layer


def _clip_layer(config: ClipConfig) -> int:
    return 4 * config.hidden_size**2 + 2 * config.hidden_size * config.intermediate_size


@dataclass(frozen=True, slots=True)
class _Layer:
    inputs: int
    outputs: int
    kernel: int
    side: int
    """Of the square it is applied at."""
    biased: bool = False
    """Has a bias instead of a batch norm behind it."""

    @property
    def weights(self) -> int:
        return self.inputs * self.outputs * self.kernel**2

    @property
    def places(self) -> int:
        return self.side**2


def _scene_layers(config: SceneCnnConfig) -> list[_Layer]:
    width, narrow = config.width, 3 * config.width // 8
    layers = [
        _Layer(3, width // 8, 3, 32),
        _Layer(width // 8, narrow, 3, 16),
        _Layer(narrow, narrow, 3, 16),
        _Layer(narrow, width, 4, 8),
    ]
    layers += config.num_blocks * [_Layer(width, width // 2, 3, 8), _Layer(width // 2, width, 3, 8)]
    layers += [
        _Layer(width, width, 3, 6),
        _Layer(width, config.cell_dim, 2, 3, biased=True),
        _Layer(width, config.global_dim, 1, 1, biased=True),
    ]
    return layers
