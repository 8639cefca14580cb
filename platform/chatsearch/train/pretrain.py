"""Starting weights of the ``tiny`` size: nobody publishes any for the scenes, so they are trained here, once."""

from __future__ import annotations

import sys

import torch

from chatsearch.kinds import MODEL_WEIGHTS
from chatsearch.manifest import Artefact, begin_output
from chatsearch.model.vision import VisionEncoder
from chatsearch.model.weights import StartingWeights, save_weights
from chatsearch.train.config import TinyWeightsConfig
from chatsearch.train.pretrain_language import language_config, pretrain_language, train_tokenizer
from chatsearch.train.pretrain_vision import pretrain_vision


def build_tiny_weights(config: TinyWeightsConfig) -> Artefact:
    """Train the vision encoder, the tokenizer and the language model, and write them as one artefact.

    A finished output is returned as it is.

    Raises:
        ConfigError: the vocabulary cannot be filled.
        NonFiniteLossError: one of the two trainings diverged.
    """
    output = begin_output(config.output, MODEL_WEIGHTS, config, {}, overwrite=config.overwrite)
    if output.finished is not None:
        return output.finished
    threads = torch.get_num_threads()
    torch.set_num_threads(config.threads)
    try:
        _say("training the vision encoder on drawn scenes")
        network, scores = pretrain_vision(config.vision, progress=_say)
        _say("training the tokenizer and the language model on the scenes' text")
        tokenizer = train_tokenizer(config.language)
        language, loss = pretrain_language(config.language, tokenizer, progress=_say)
    finally:
        torch.set_num_threads(threads)
    weights = StartingWeights(
        vision=VisionEncoder(config.vision.encoder, network),
        language_config=language_config(config.language),
        language=language.word_weights(),
        tokenizer=tokenizer,
    )
    _say(f"language loss {loss:.3f} nats a word; vision reads {', '.join(f'{k} {v:.1f} %' for k, v in scores.items())}")
    return save_weights(output, weights)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
