"""Weights and optimiser of a run as pieces of named parameters, which any number of ranks can write and read.

ZeRO cuts the joined parameters of a group into one part a rank, wherever the cut falls. A piece says which elements of
which parameter it holds, so a file means the same whatever number of ranks reads it. Files are safetensors:

    weight/NAME  exp_avg/NAME  exp_avg_sq/NAME      elements start .. start + n of the flattened parameter, in fp32
    metadata "pieces"                               {NAME: [start, elements of the whole parameter, updates made]}
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from chatsearch.errors import CorruptArtefactError

MOMENTS = ("exp_avg", "exp_avg_sq")
KINDS = ("weight", *MOMENTS)
_PIECES = "pieces"


@dataclass(frozen=True)
class Piece:
    """A contiguous part of one parameter, with the optimiser's numbers for it. Tensors are the engine's own memory."""

    name: str
    start: int
    """Of its first element in the flattened parameter."""
    size: int
    """Elements of the whole parameter."""
    tensors: Mapping[str, Tensor]
    """By kind (:data:`KINDS`): flat, fp32, of equal length."""
    optimiser_state: MutableMapping[str, Any]
    """Where the optimiser counts its updates: a tensor in torch's, a number in DeepSpeed's."""

    @property
    def stop(self) -> int:
        """Behind its last element in the flattened parameter."""
        return self.start + len(self.tensors["weight"])

    @property
    def num_updates(self) -> int:
        """Updates that the optimiser has made."""
        return int(self.optimiser_state["step"])

    def set_updates(self, num_updates: int) -> None:
        """Tell the optimiser how many updates it has made: its bias correction depends on them."""
        held = self.optimiser_state["step"]
        self.optimiser_state["step"] = torch.full_like(held, num_updates) if isinstance(held, Tensor) else num_updates


@dataclass(frozen=True)
class TensorFile:
    """A file that is going to be written: copies on the CPU that no step changes any more."""

    name: str
    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, str]


def snapshot(
    name: str, pieces: Iterable[Piece], others: Mapping[str, Tensor], last: TensorFile | None = None
) -> TensorFile:
    """Copies of pieces and of other tensors, as they are now.

    Args:
        name: of the file.
        pieces: of this rank.
        others: whatever else goes into the file, by name.
        last: an earlier snapshot of the same that is not needed any more. Its memory is used again: to get new memory takes
            longer than to copy.
    """
    held: dict[str, Tensor] = dict(others)
    index = {}
    for piece in pieces:
        index[piece.name] = (piece.start, piece.size, piece.num_updates)
        held |= {f"{kind}/{piece.name}": tensor for kind, tensor in piece.tensors.items()}
    memory = last.tensors if last else {}
    tensors = {
        key: (memory[key] if key in memory else torch.empty_like(tensor, device="cpu", requires_grad=False)).copy_(
            tensor
        )
        for key, tensor in held.items()
    }
    return TensorFile(name, tensors, {_PIECES: json.dumps(index)})


def restore(pieces: Sequence[Piece], paths: Iterable[Path]) -> None:
    """Fill pieces from files in which other ranks, or another number of ranks, have kept theirs.

    Raises:
        CorruptArtefactError: the files do not hold every element of every piece, each named with its kind.
    """
    wanted = {piece.name: piece for piece in pieces}
    filled = dict.fromkeys(wanted, 0)
    for path in paths:
        with _opened(path) as file:
            for name, (start, size, num_updates) in _index(file, path).items():
                piece = wanted.get(name)
                if piece is None:
                    continue
                if piece.size != size:
                    raise CorruptArtefactError(
                        f"{path} holds {name} with {size} elements, the model has {piece.size}. Delete the checkpoint."
                    )
                filled[name] += _fill(piece, file, start, path)
                piece.set_updates(num_updates)
    for name, piece in wanted.items():
        if filled[name] != piece.stop - piece.start:
            raise CorruptArtefactError(
                f"The checkpoint holds {filled[name]} of {piece.stop - piece.start} elements of {name} that this rank needs. "
                "Delete it."
            )


def _fill(piece: Piece, file: Any, start: int, path: Path) -> int:
    """Copy what a file's piece from ``start`` on and this one have in common; returns the number of elements."""
    begin = end = 0
    for kind, tensor in piece.tensors.items():
        held = _slice(file, f"{kind}/{piece.name}", path)
        begin, end = max(piece.start, start), min(piece.stop, start + held.get_shape()[0])
        if begin >= end:
            return 0
        tensor[begin - piece.start : end - piece.start].copy_(held[begin - start : end - start])
    return end - begin


def joined_weights(paths: Iterable[Path]) -> dict[str, Tensor]:
    """Whole parameters, flattened, in fp32 on the CPU, from the files of all ranks.

    Raises:
        CorruptArtefactError: a file lacks a weight, or elements of a parameter are in none.
    """
    weights: dict[str, Tensor] = {}
    filled: dict[str, int] = {}
    for path in paths:
        with _opened(path) as file:
            for name, (start, size, _) in _index(file, path).items():
                part = _slice(file, f"weight/{name}", path)[:]
                weights.setdefault(name, torch.empty(size))[start : start + len(part)] = part
                filled[name] = filled.get(name, 0) + len(part)
    for name, weight in weights.items():
        if filled[name] != len(weight):
            raise CorruptArtefactError(
                f"The checkpoint holds {filled[name]} of {len(weight)} elements of {name}. Delete it."
            )
    return weights


def read_tensors(path: Path, names: Iterable[str]) -> dict[str, Tensor]:
    """Some tensors of one file.

    Raises:
        CorruptArtefactError: one is not there.
    """
    with _opened(path) as file:
        return {name: _slice(file, name, path)[...] for name in names}


def _opened(path: Path) -> Any:
    try:
        return safe_open(path, "pt")
    except (SafetensorError, OSError) as error:
        raise CorruptArtefactError(f"{path} is no safetensors file: {error}. Delete the checkpoint.") from error


def _index(file: Any, path: Path) -> dict[str, tuple[int, int, int]]:
    text = (file.metadata() or {}).get(_PIECES)
    if text is None:
        raise CorruptArtefactError(f"{path} does not say which pieces it holds. Delete the checkpoint.")
    return {name: tuple(place) for name, place in json.loads(text).items()}


def _slice(file: Any, name: str, path: Path) -> Any:
    try:
        return file.get_slice(name)
    except SafetensorError as error:
        raise CorruptArtefactError(
            f"{path} has no {name}: part of the state is missing. Delete the checkpoint."
        ) from error
