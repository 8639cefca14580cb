"""The model bundle: all that answering a request takes, kind ``model-bundle``.

    config.json               the searcher's configuration
    searcher.safetensors      everything trained, except
    projection.safetensors    M_Q, (d, D) under the name ``gallery_head.weight``: the index reads it without torch
    vision.safetensors        the frozen encoder's network
    tokenizer.json, tokenizer_config.json

Tied tensors are stored once. Reading is strict: every tensor, no other, every checksum.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pydantic import ValidationError
from torch import Tensor

from chatsearch.data.tokenizer import ChatTokenizer
from chatsearch.errors import CorruptArtefactError, FingerprintMismatchError
from chatsearch.kinds import MODEL_BUNDLE
from chatsearch.manifest import Artefact, Output, begin_output, open_artefact
from chatsearch.model.config import SearcherConfig
from chatsearch.model.layout import BUNDLE_FILES, CONFIG, M_Q, PROJECTION, SEARCHER, VISION
from chatsearch.model.searcher import ChatSearcher
from chatsearch.model.tensors import read_tensors, tensors_digest, write_tensors
from chatsearch.model.vision import VisionEncoder
from chatsearch.model.weights import check_vocabulary
from chatsearch.storage import Folder

TIED = {
    "language.head_VH": "language.decoder.embed_tokens.weight",
    "language.control_head_2H": "language.control_2H",
}
"""Tensor to the one it is, where embeddings are tied."""


@dataclass(frozen=True)
class ModelBundle:
    """A bundle, opened; searcher and encoder are in evaluation mode."""

    searcher: ChatSearcher
    vision: VisionEncoder
    tokenizer: ChatTokenizer
    config: SearcherConfig
    uri: str
    fingerprint: str
    """Of the artefact: what made it."""
    mq_fingerprint: str
    """Of M_Q: an index built with another one is refused."""
    encoder_fingerprint: str
    """Of the frozen encoder: features made with another one are refused."""
    preprocessing_id: str


def write_bundle(folder: Folder, searcher: ChatSearcher, vision: VisionEncoder, tokenizer: ChatTokenizer) -> dict:
    """Write a bundle's files, ``BUNDLE_FILES``, and return the facts for its manifest, which the caller writes.

    For jobs that take their output themselves: ``output.commit(counts=..., files=BUNDLE_FILES, facts=write_bundle(...))``.

    Raises:
        ConfigError: tokenizer and language model disagree about the vocabulary.
        FingerprintMismatchError: the encoder is not the one that the searcher is configured for.
    """
    config = searcher.config
    check_vocabulary(tokenizer, config.language)
    if vision.config != config.vision:
        raise FingerprintMismatchError(
            f"The searcher is configured for the vision encoder {config.vision!r}, given {vision.config!r}."
        )
    tensors = stored_tensors(searcher)
    projection = {M_Q: tensors.pop(M_Q).float()}
    write_tensors(folder, SEARCHER, tensors)
    write_tensors(folder, PROJECTION, projection)
    write_tensors(folder, VISION, vision.network.state_dict())
    tokenizer.save(folder)
    folder.write_bytes(CONFIG, config.model_dump_json(indent=1).encode())
    return {
        "mq_fingerprint": tensors_digest(projection)[:16],
        "encoder_fingerprint": vision.fingerprint,
        "preprocessing_id": vision.preprocessing_id,
        "retrieval_dim": config.retrieval_dim,
        "feature_dim": config.vision.feature_dim,
    }


def save_bundle(
    uri: str,
    searcher: ChatSearcher,
    vision: VisionEncoder,
    tokenizer: ChatTokenizer,
    *,
    inputs: Mapping[str, str],
    overwrite: bool = False,
) -> Artefact:
    """Write a whole bundle artefact. ``inputs`` are the fingerprints of what the weights were made from.

    Raises:
        ConflictingOutputError: something else lies there and ``overwrite`` is false.
    """
    output: Output = begin_output(uri, MODEL_BUNDLE, searcher.config, inputs, overwrite=overwrite)
    if output.finished is not None:
        return output.finished
    facts = write_bundle(output.folder, searcher, vision, tokenizer)
    return output.commit(counts={"parameters": num_parameters(searcher)}, files=BUNDLE_FILES, facts=facts)


def load_bundle(uri: str, *, device: str = "cpu") -> ModelBundle:
    """Open a bundle; every file read is checked against the manifest.

    Raises:
        IncompleteArtefactError: nothing finished lies there.
        CorruptArtefactError: a file is damaged, or a tensor is missing, left over or of another shape.
        FingerprintMismatchError: the weights are not those that the manifest names.
    """
    artefact = open_artefact(uri, MODEL_BUNDLE)
    config = _read_config(artefact)
    projection = read_tensors(artefact, PROJECTION)
    vision = VisionEncoder.from_weights(config.vision, read_tensors(artefact, VISION))
    searcher = ChatSearcher(config)
    load_stored_tensors(searcher, {**read_tensors(artefact, SEARCHER), **projection}, origin=artefact.uri)
    tokenizer = ChatTokenizer.load_checked(artefact)
    check_vocabulary(tokenizer, config.language)
    facts = artefact.manifest.facts
    for what, found in (
        ("mq_fingerprint", tensors_digest(projection)[:16]),
        ("encoder_fingerprint", vision.fingerprint),
        ("preprocessing_id", vision.preprocessing_id),
    ):
        if facts.get(what) != found:
            raise FingerprintMismatchError(
                f"{artefact.uri} says {what} {facts.get(what)}, its files give {found}: they are of different models, or this "
                "version prepares pictures in another way. Export the model again with jobs.train."
            )
    return ModelBundle(
        searcher=searcher.to(device).eval(),
        vision=vision.to(device),
        tokenizer=tokenizer,
        config=config,
        uri=artefact.uri,
        fingerprint=artefact.fingerprint,
        mq_fingerprint=facts["mq_fingerprint"],
        encoder_fingerprint=facts["encoder_fingerprint"],
        preprocessing_id=facts["preprocessing_id"],
    )


def stored_tensors(searcher: ChatSearcher) -> dict[str, Tensor]:
    """The tensors of a searcher, tied ones once."""
    tensors = dict(searcher.state_dict())
    if searcher.config.language.tie_embeddings:
        for name in TIED:
            del tensors[name]
    return tensors


def load_stored_tensors(searcher: ChatSearcher, tensors: Mapping[str, Tensor], *, origin: str) -> None:
    """Load what :func:`stored_tensors` gave, strictly.

    Raises:
        CorruptArtefactError: a tensor is missing, left over or of another shape; ``origin`` says where from.
    """
    whole = dict(tensors)
    if searcher.config.language.tie_embeddings:
        whole |= {name: whole[source] for name, source in TIED.items() if source in whole}
    try:
        searcher.load_state_dict(whole, strict=True)
    except RuntimeError as error:
        raise CorruptArtefactError(
            f"The weights in {origin} do not fit their configuration: {' '.join(str(error).split())[:400]}. "
            "Export the model again with jobs.train."
        ) from error


def num_parameters(searcher: ChatSearcher) -> int:
    """Parameters of everything trained or frozen in the searcher, tied ones once."""
    return sum(parameter.numel() for parameter in searcher.parameters())


def _read_config(artefact: Artefact) -> SearcherConfig:
    try:
        return SearcherConfig.model_validate_json(artefact.read_checked(CONFIG))
    except ValidationError as error:
        raise CorruptArtefactError(
            f"{artefact.folder.path(CONFIG)} does not describe a model: {error.errors()[0]['msg']}. Export it again with jobs.train."
        ) from error
