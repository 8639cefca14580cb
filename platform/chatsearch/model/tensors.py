"""Reading and writing named tensors in an artefact: safetensors and nothing else."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from chatsearch.errors import CorruptArtefactError
from chatsearch.manifest import Artefact
from chatsearch.storage import Folder


def write_tensors(folder: Folder, name: str, tensors: Mapping[str, Tensor]) -> None:
    """Write one safetensors file; the same tensors give the same bytes."""
    with folder.writing(name) as local:
        save_file({key: tensors[key].detach().cpu().contiguous() for key in sorted(tensors)}, local)
        Path(local).chmod(0o644)  # the library writes files that only their owner may read


def read_tensors(artefact: Artefact, name: str) -> dict[str, Tensor]:
    """Tensors of one file whose checksum holds.

    Raises:
        CorruptArtefactError: the file is damaged.
    """
    path = artefact.checked_path(name)
    try:
        return load_file(path)
    except SafetensorError as error:
        raise CorruptArtefactError(f"{path} is no safetensors file: {error}. Make the artefact again.") from error


def tensors_digest(tensors: Mapping[str, Tensor]) -> str:
    """sha256 over names, dtypes, shapes and bytes of tensors, in the order of their names."""
    hasher = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        hasher.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        hasher.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return hasher.hexdigest()
