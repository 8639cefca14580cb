"""The tensors of published files, read one by one and never through code that fills in what is missing.

Only safetensors and tensors-only ``torch.load`` are read: no pickled code is ever run.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from chatsearch.errors import CorruptArtefactError, MissingInputError
from chatsearch.model.mapping import Published

_WHOLE = ("model.safetensors", "pytorch_model.bin")
"""In the order of preference; an index beside them is named after them."""


def read_published(folder: Path) -> Published:
    """All tensors of a checkpoint as transformers writes it: one file or, with an index, several.

    Raises:
        MissingInputError: there is none, or a file that the index names is not there.
        CorruptArtefactError: a file is damaged, or a tensor is not where the index says.
    """
    for whole in _WHOLE:
        index = folder / f"{whole}.index.json"
        if index.is_file():
            return _read_indexed(index)
        if (folder / whole).is_file():
            return read_file(folder / whole)
    raise MissingInputError(f"{folder} has none of {', '.join(_WHOLE)}. Name a folder with published weights.")


def read_file(path: Path) -> Published:
    """All tensors of one file; those of a training checkpoint may lie below ``model``.

    Raises:
        CorruptArtefactError: it is damaged, or holds something else than named tensors.
    """
    try:
        held = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, OSError, EOFError) as error:
        raise CorruptArtefactError(
            f"{path} cannot be read as tensors: {' '.join(str(error).split())[:300]}. Fetch it again."
        ) from error
    if isinstance(held, Mapping) and isinstance(held.get("model"), Mapping):
        held = held["model"]
    if not isinstance(held, Mapping) or not all(isinstance(tensor, Tensor) for tensor in held.values()):
        raise CorruptArtefactError(f"{path} holds something else than named tensors. Name another file.")
    return Published(dict(held), dict.fromkeys(held, path.name))


def _read_indexed(index: Path) -> Published:
    try:
        places: Mapping[str, str] = json.loads(index.read_bytes())["weight_map"]
    except (ValueError, KeyError, TypeError) as error:
        raise CorruptArtefactError(f"{index} is no index of weights: {error!r}. Fetch it again.") from error
    tensors: dict[str, Tensor] = {}
    files: dict[str, str] = {}
    for name in sorted(set(places.values())):
        path = index.parent / Path(name).name
        if not path.is_file():
            raise MissingInputError(f"{path} is not there, but {index.name} names it. Fetch it again.")
        found = read_file(path)
        twice = sorted(found.tensors.keys() & tensors.keys())
        if twice:
            raise CorruptArtefactError(f"{twice[0]} is both in {files[twice[0]]} and in {path}. Fetch them again.")
        tensors |= found.tensors
        files |= found.files
    misplaced = [name for name, place in places.items() if files.get(name) != place]
    if misplaced:
        raise CorruptArtefactError(f"{misplaced[0]} is not in {places[misplaced[0]]}, as {index} says. Fetch it again.")
    return Published(tensors, files)
