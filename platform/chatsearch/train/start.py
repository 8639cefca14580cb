"""What a run starts from: the searcher, its frozen encoder and its tokenizer."""

from __future__ import annotations

from typing import NamedTuple

from chatsearch.data.tokenizer import ChatTokenizer
from chatsearch.errors import FingerprintMismatchError
from chatsearch.kinds import MODEL_WEIGHTS
from chatsearch.manifest import read_manifest
from chatsearch.model.bundle import load_bundle
from chatsearch.model.searcher import ChatSearcher
from chatsearch.model.vision import VisionEncoder
from chatsearch.model.weights import load_weights, start_searcher
from chatsearch.train.config import TrainConfig


class Start(NamedTuple):
    """The parts of the model before the first step."""

    searcher: ChatSearcher
    vision: VisionEncoder
    tokenizer: ChatTokenizer
    is_trained: bool
    """Whether it comes from a stage before, so that heads and projectors are trained already."""


def load_start(config: TrainConfig) -> Start:
    """Read model weights or a model bundle.

    Raises:
        ArtefactError: neither lies there, it is damaged, or it is of another shape than the configuration.
    """
    manifest = read_manifest(config.weights)
    if manifest is not None and manifest.kind == MODEL_WEIGHTS:
        weights = load_weights(config.weights)
        return Start(start_searcher(config.model, weights, seed=config.seed), weights.vision, weights.tokenizer, False)
    bundle = load_bundle(config.weights)
    wanted = config.model
    # These change what is trained, not the shape of any tensor.
    held = bundle.config.replace(
        freeze_language=wanted.freeze_language,
        freeze_words=wanted.freeze_words,
        tau0=wanted.tau0,
        max_log_scale=wanted.max_log_scale,
    )
    if held != wanted:
        differing = [name for name in type(held).model_fields if getattr(held, name) != getattr(wanted, name)]
        raise FingerprintMismatchError(
            f"{config.weights} holds a searcher with another {' and '.join(differing)} than this configuration. Set model to the "
            "shape of the bundle, or start from other weights."
        )
    searcher = ChatSearcher(wanted)
    searcher.load_state_dict(bundle.searcher.state_dict(), strict=True)
    return Start(searcher, bundle.vision, bundle.tokenizer, True)
