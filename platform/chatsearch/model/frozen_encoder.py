"""The frozen vision encoder of a model, read without the rest of it.

Kept apart from bundle and weights: what embeds a gallery needs neither language model nor perceiver, and none of
the libraries that come with them.
"""

from __future__ import annotations

import json

from pydantic import TypeAdapter, ValidationError

from chatsearch.errors import CorruptArtefactError, FingerprintMismatchError
from chatsearch.kinds import MODEL_BUNDLE, MODEL_WEIGHTS
from chatsearch.manifest import Artefact, open_artefact, read_manifest
from chatsearch.model.config import VisionConfig
from chatsearch.model.layout import CONFIG, SHAPES, VISION
from chatsearch.model.tensors import read_tensors
from chatsearch.model.vision import VisionEncoder

DESCRIPTIONS = {MODEL_BUNDLE: CONFIG, MODEL_WEIGHTS: SHAPES}
"""By kind, the file with the shapes of all parts; both hold the encoder's under ``vision``."""


def load_vision(uri: str) -> VisionEncoder:
    """The frozen encoder of a bundle or of starting weights; every file read is checked against the manifest.

    Raises:
        ArtefactError: neither lies there, or a file is damaged.
    """
    manifest = read_manifest(uri)
    if manifest is not None and manifest.kind not in DESCRIPTIONS:
        raise FingerprintMismatchError(
            f"{uri} holds a {manifest.kind}, which has no vision encoder. Name a model bundle or starting weights."
        )
    artefact = open_artefact(uri, MODEL_BUNDLE if manifest is None else manifest.kind)
    return VisionEncoder.from_weights(_described(artefact), read_tensors(artefact, VISION))


def _described(artefact: Artefact) -> VisionConfig:
    name = DESCRIPTIONS[artefact.manifest.kind]
    try:
        held = json.loads(artefact.read_checked(name))["vision"]
        return TypeAdapter(VisionConfig).validate_python(held)
    except (ValueError, KeyError, TypeError, ValidationError) as error:
        raise CorruptArtefactError(
            f"{artefact.folder.path(name)} describes no vision encoder: {' '.join(str(error).split())[:200]}. Make it again."
        ) from error
