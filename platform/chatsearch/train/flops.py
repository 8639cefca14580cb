"""FLOPs of a global step: what the model needs, by part, and what is computed twice to save memory.

Counted as usual for MFU: two a multiply-add, matrices and attention only. A weight costs 2 forward, 2 for its own
gradient and 2 for that of its input, so

    6 x weights x tokens    where it is trained
    4 x weights x tokens    where it is frozen, but gradients pass through
    2 x weights x tokens    in the frozen encoder, a token being a patch (a convolution: a place it is applied at)

and attention 12 x width x pairs of positions a layer, forward and backward, pairs being counted within documents and
above the diagonal too.
"""

from __future__ import annotations

from dataclasses import dataclass

from chatsearch.model.config import NUM_CONTROL_TOKENS
from chatsearch.model.size import adapter_matrices, decoder_matrices, perceiver_matrices, vision_flops
from chatsearch.train.config import TrainConfig
from chatsearch.train.volume import Volume

LABELS_PER_CHUNK = 1024
"""Labels beyond which a worker computes logits twice (``positions_per_chunk`` of the word loss)."""


@dataclass(frozen=True, slots=True)
class StepFlops:
    """FLOPs of one global step, all workers together."""

    decoder: float
    """With its adapters."""
    attention: float
    words: float
    """M_t."""
    perceiver: float
    """With its attention."""
    projectors_and_heads: float
    vision: float
    """0 where features come from a store."""
    recomputed: float
    """On top: decoder layers under activation checkpointing, and logits in chunks."""

    @property
    def model(self) -> float:
        """What the step needs: the numerator of MFU."""
        return sum(self.by_part().values())

    def by_part(self) -> dict[str, float]:
        """Its terms, by name."""
        return {
            "decoder": self.decoder,
            "attention": self.attention,
            "words (M_t)": self.words,
            "perceiver": self.perceiver,
            "projectors and heads": self.projectors_and_heads,
            "frozen encoder": self.vision,
        }


def step_flops(config: TrainConfig, volume: Volume) -> StepFlops:
    """FLOPs of a step of this volume."""
    model, language = config.model, config.model.language
    is_frozen = model.freeze_language or config.lora.rank > 0
    decoder_rate = 4 if is_frozen else 6
    words_rate = 4 if is_frozen or model.freeze_words else 6
    decoder = float(decoder_matrices(language) * volume.positions)
    adapters = float(adapter_matrices(language, config.lora) * volume.positions)
    attention = float(language.num_layers * language.hidden_size * volume.pairs)
    words = float(language.vocab_size * language.hidden_size * volume.labels)
    control = float(NUM_CONTROL_TOKENS * language.hidden_size * volume.labels)
    recomputed = 0.0
    if config.activation_checkpointing:
        recomputed += 2 * (decoder + adapters) + 4 * attention
    if volume.labels / (config.world_size * config.accumulation) > LABELS_PER_CHUNK:
        recomputed += 2 * (words + control)
    return StepFlops(
        decoder=decoder_rate * decoder + 6 * adapters,
        attention=12 * attention,
        words=words_rate * words + 6 * control,
        perceiver=volume.images * _perceiver(config),
        projectors_and_heads=_projectors_and_heads(config, volume),
        vision=0.0 if config.features else volume.images * float(vision_flops(model.vision)),
        recomputed=recomputed,
    )


def _perceiver(config: TrainConfig) -> float:
    """Of one picture."""
    model, perceiver = config.model, config.model.perceiver
    matrices = perceiver_matrices(perceiver, model.vision.token_dim)
    pairs = perceiver.num_layers * model.num_queries**2
    pairs += matrices.num_looking * model.num_queries * model.vision.num_tokens
    dense = matrices.queries * model.num_queries + matrices.picture * model.vision.num_tokens
    return 6.0 * dense + 12.0 * perceiver.hidden_size * pairs


def _projectors_and_heads(config: TrainConfig, volume: Volume) -> float:
    """W_c, W_q and M_v for each image; M_Q for every candidate, in each micro-batch of each worker anew."""
    model = config.model
    hidden, feature = model.language.hidden_size, model.vision.feature_dim
    image = feature * hidden + model.num_queries * model.perceiver.hidden_size * hidden + hidden * model.retrieval_dim
    micro_batches = config.world_size * config.accumulation
    if config.objective.queue_size:
        # A step with more images than the queue has places brings its own candidates.
        candidates = micro_batches * max(config.objective.queue_size, volume.images)
        compared = volume.images * max(config.objective.queue_size, volume.images)
    else:
        candidates, compared = volume.images, volume.images**2 / micro_batches
    return 6.0 * (image * volume.images + feature * model.retrieval_dim * candidates + model.retrieval_dim * compared)
