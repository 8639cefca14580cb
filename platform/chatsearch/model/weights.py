"""Starting weights: the artefact from which training starts, kind ``model-weights``.

    vision.safetensors      the frozen encoder's network
    language.safetensors    the language model, under the names that Llama checkpoints use
    perceiver.safetensors   the Q-Former and its query tokens, if there are any to start from
    weights.json            shapes of the parts
    tokenizer.json, tokenizer_config.json
    mapping.json            which published tensor became which of these (:mod:`chatsearch.model.mapping`)

Made by the warm-start jobs for ``tiny`` and by :mod:`chatsearch.model.published` for the other sizes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from pydantic import ValidationError
from torch import Tensor

from chatsearch.config import Config
from chatsearch.data.tokenizer import ChatTokenizer
from chatsearch.errors import ConfigError, CorruptArtefactError, FingerprintMismatchError
from chatsearch.kinds import MODEL_WEIGHTS
from chatsearch.manifest import Artefact, Output, open_artefact
from chatsearch.model.config import LanguageConfig, SearcherConfig, VisionConfig
from chatsearch.model.layout import LANGUAGE, PERCEIVER, SHAPES, VISION
from chatsearch.model.searcher import ChatSearcher
from chatsearch.model.tensors import read_tensors, write_tensors
from chatsearch.model.vision import VisionEncoder


class _Shapes(Config):
    vision: VisionConfig
    language: LanguageConfig


@dataclass(frozen=True)
class StartingWeights:
    """Parts of a searcher that have been trained before."""

    vision: VisionEncoder
    language_config: LanguageConfig
    language: Mapping[str, Tensor]
    """Under the names that Llama checkpoints use, without rows for the control tokens."""
    tokenizer: ChatTokenizer
    perceiver: Mapping[str, Tensor] | None = None
    """Under the names of :class:`chatsearch.model.perceiver.Perceiver`; None starts at random."""


def save_weights(output: Output, weights: StartingWeights) -> Artefact:
    """Write all files and the manifest into an output that the job has taken.

    Raises:
        ConfigError: tokenizer and language model disagree about the vocabulary.
    """
    check_vocabulary(weights.tokenizer, weights.language_config)
    folder = output.folder
    write_tensors(folder, VISION, weights.vision.network.state_dict())
    write_tensors(folder, LANGUAGE, weights.language)
    if weights.perceiver is not None:
        write_tensors(folder, PERCEIVER, weights.perceiver)
    weights.tokenizer.save(folder)
    shapes = _Shapes(vision=weights.vision.config, language=weights.language_config)
    folder.write_bytes(SHAPES, shapes.model_dump_json(indent=1).encode())
    return output.commit(
        counts={
            "vision_parameters": sum(p.numel() for p in weights.vision.parameters()),
            "language_parameters": sum(t.numel() for t in weights.language.values()),
        },
        facts={
            "encoder_fingerprint": weights.vision.fingerprint,
            "preprocessing_id": weights.vision.preprocessing_id,
            "feature_dim": weights.vision.config.feature_dim,
        },
    )


def load_weights(uri: str) -> StartingWeights:
    """Open starting weights; every file read is checked against the manifest.

    Raises:
        ArtefactError: nothing finished lies there, or a file is damaged.
    """
    artefact = open_artefact(uri, MODEL_WEIGHTS)
    shapes = _read_shapes(artefact)
    has_perceiver = PERCEIVER in artefact.manifest.files
    return StartingWeights(
        vision=VisionEncoder.from_weights(shapes.vision, read_tensors(artefact, VISION)),
        language_config=shapes.language,
        language=read_tensors(artefact, LANGUAGE),
        tokenizer=ChatTokenizer.load_checked(artefact),
        perceiver=read_tensors(artefact, PERCEIVER) if has_perceiver else None,
    )


def start_searcher(config: SearcherConfig, weights: StartingWeights, *, seed: int = 0) -> ChatSearcher:
    """A searcher that starts from these weights; what they do not hold is drawn from ``seed``.

    Raises:
        FingerprintMismatchError: the configuration describes other parts than the weights hold.
    """
    _check_fit(config, weights)
    check_vocabulary(weights.tokenizer, config.language)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        searcher = ChatSearcher(config)
    searcher.language.load_word_weights(weights.language)
    if weights.perceiver is not None:
        try:
            searcher.perceiver.load_state_dict(weights.perceiver, strict=True)
        except RuntimeError as error:
            raise FingerprintMismatchError(
                f"The perceiver's weights do not fit the configuration: {' '.join(str(error).split())[:400]}. "
                "Set model.perceiver and model.num_queries to the shape of the weights."
            ) from error
    return searcher


def check_vocabulary(tokenizer: ChatTokenizer, language: LanguageConfig) -> None:
    """Check that the control tokens have the same ids on both sides.

    Raises:
        ConfigError: naming both sizes.
    """
    if tokenizer.text_vocab_size != language.vocab_size:
        raise ConfigError(
            f"The tokenizer has {tokenizer.text_vocab_size} words, the language model {language.vocab_size}: [IMG] would have "
            "two ids. Set language.vocab_size to the tokenizer's size, or use the tokenizer of these weights."
        )


def _check_fit(config: SearcherConfig, weights: StartingWeights) -> None:
    if config.vision != weights.vision.config:
        raise FingerprintMismatchError(
            f"The configuration wants the vision encoder {config.vision!r}, the weights hold {weights.vision.config!r}. "
            "Set model.vision to the encoder of the weights, or make weights with the encoder wanted."
        )
    held, wanted = weights.language_config, config.language
    # Depth may be cut, and the number of positions and the spread of fresh rows change no tensor.
    free = {"num_layers", "max_positions", "initializer_range"}
    differing = [n for n in type(held).model_fields if n not in free and getattr(held, n) != getattr(wanted, n)]
    if held.num_layers < wanted.num_layers:
        differing.append("num_layers")
    if differing:
        listing = ", ".join(f"{n}={getattr(wanted, n)} (weights: {getattr(held, n)})" for n in differing)
        raise FingerprintMismatchError(
            f"The language model of the weights has another shape: {listing}. Set model.language to it."
        )


def _read_shapes(artefact: Artefact) -> _Shapes:
    try:
        return _Shapes.model_validate_json(artefact.read_checked(SHAPES))
    except ValidationError as error:
        raise CorruptArtefactError(
            f"{artefact.folder.path(SHAPES)} does not describe weights: {error.errors()[0]['msg']}. Make them again."
        ) from error
