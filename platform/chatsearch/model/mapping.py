"""Which published tensor became which of ours: nothing is left out, or drawn at random in its place, without being named.

``mapping.json`` beside starting weights:

    schema_version, parts {PART: {taken {our name: {from [published names], files, shape, dtype}}, left_out {published name:
    {file, reason}}}}

A part without a source, such as the Q-Former where none is named, is not in it and starts at random.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from chatsearch.errors import CorruptArtefactError

MAPPING = "mapping.json"
SCHEMA = 1
_NUM_SHOWN = 8


@dataclass(frozen=True)
class Published:
    """The tensors of a published checkpoint, and the file that each was read from."""

    tensors: Mapping[str, Tensor]
    files: Mapping[str, str]


@dataclass(frozen=True)
class LeftOut:
    """That a published tensor has no place in our model, and why."""

    reason: str


@dataclass(frozen=True)
class Taken:
    """Where one of our tensors comes from."""

    sources: tuple[str, ...]
    files: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class PartMapping:
    """The whole way from the published tensors to those of one part of our model."""

    part: str
    taken: Mapping[str, Taken]
    left_out: Mapping[str, tuple[str, str]]
    """By published name: the file and the reason."""

    def summary(self) -> str:
        """One line."""
        reasons = Counter(reason for _, reason in self.left_out.values())
        used = len({name for taken in self.taken.values() for name in taken.sources})
        told = ", ".join(f"{count} {reason}" for reason, count in sorted(reasons.items())) or "none"
        return f"{self.part}: {len(self.taken)} tensors from {used} published ones; left out: {told}"

    def as_json(self) -> dict[str, Any]:
        """For ``mapping.json``."""
        return {
            "taken": {
                name: {"from": list(t.sources), "files": list(t.files), "shape": list(t.shape), "dtype": t.dtype}
                for name, t in sorted(self.taken.items())
            },
            "left_out": {
                name: {"file": file, "reason": reason} for name, (file, reason) in sorted(self.left_out.items())
            },
        }


def mapping_json(parts: Sequence[PartMapping]) -> dict[str, Any]:
    """The content of ``mapping.json``."""
    return {"schema_version": SCHEMA, "parts": {part.part: part.as_json() for part in parts}}


def map_by_name(
    part: str,
    published: Published,
    wanted: Mapping[str, torch.Size],
    rename: Callable[[str], str | LeftOut],
) -> tuple[dict[str, Tensor], PartMapping]:
    """Give published tensors our names, one to one.

    Args:
        part: what they are for, for messages.
        published: all tensors of the checkpoint.
        wanted: names and shapes of ours, as the meta device has them.
        rename: our name of a published tensor, or why it has none. What it makes up has to be among those wanted.

    Raises:
        CorruptArtefactError: naming every tensor that is missing, left over, there twice or of another shape.
    """
    tensors: dict[str, Tensor] = {}
    sources: dict[str, str] = {}
    left_out: dict[str, tuple[str, str]] = {}
    problems: list[str] = []
    for name, tensor in published.tensors.items():
        ours = rename(name)
        if isinstance(ours, LeftOut):
            left_out[name] = (published.files[name], ours.reason)
        elif ours not in wanted:
            problems.append(f"{name} in {published.files[name]} is unexpected")
        elif ours in sources:
            problems.append(f"{name} and {sources[ours]} are both {ours}")
        elif tensor.shape != wanted[ours]:
            problems.append(f"{name} has shape {tuple(tensor.shape)}, {ours} has {tuple(wanted[ours])}")
        if isinstance(ours, str):
            tensors[ours], sources[ours] = tensor, name
    problems += [f"{ours} is missing" for ours in wanted if ours not in sources]
    check(part, problems)
    mapped = {ours: taken(published, (name,), tensors[ours]) for ours, name in sources.items()}
    return tensors, PartMapping(part, mapped, left_out)


def taken(published: Published, sources: tuple[str, ...], tensor: Tensor) -> Taken:
    """The entry of one of our tensors."""
    files = tuple(dict.fromkeys(published.files[name] for name in sources))
    return Taken(sources, files, tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."))


def check(part: str, problems: Sequence[str]) -> None:
    """Refuse a checkpoint with anything wrong about it.

    Raises:
        CorruptArtefactError: naming the first few of its problems and the number of all.
    """
    if problems:
        more = f"; and {len(problems) - _NUM_SHOWN} more" if len(problems) > _NUM_SHOWN else ""
        raise CorruptArtefactError(
            f"The published weights do not fit the {part}: {'; '.join(problems[:_NUM_SHOWN])}{more}. Take the checkpoint that the "
            "configuration describes, or configure the one that is there."
        )
