"""How far a search in an approximate index goes: arguments of a request, never a state of the index."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

from chatsearch.errors import InputError

TAKEN = {
    "flat": (),
    "fp16": ("num_reranked",),
    "sq8": ("num_reranked",),
    "ivf-pq": ("nprobe", "num_reranked"),
    "ivf-opq": ("nprobe", "num_reranked"),
    "ivf-rabitq": ("nprobe", "num_reranked"),
    "hnsw": ("ef_search", "num_reranked"),
}
"""By kind of index, what a search of it can be told."""


@dataclass(frozen=True, slots=True)
class SearchParameters:
    """What is None is as the build of the index set it."""

    nprobe: int | None = None
    """Inverted lists that are looked into."""
    ef_search: int | None = None
    """Candidates that the walk through the graph keeps."""
    num_reranked: int | None = None
    """Candidates of each shard whose exact scores decide; as many as are wanted at least."""

    def over(self, defaults: Mapping[str, int], kind: str) -> SearchParameters:
        """The same with the defaults of an index of some kind where nothing is said.

        Raises:
            InputError: something is said that this kind does not take, or is no whole number above 0.
        """
        said = {name: value for name in NAMES if (value := getattr(self, name)) is not None}
        for name, value in said.items():
            if name not in TAKEN[kind]:
                takes = " and ".join(TAKEN[kind]) or "no search parameter: it is exact"
                raise InputError(f"{name}={value!r} is nothing that an index of kind {kind} takes; it takes {takes}.")
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise InputError(f"{name} is {value!r}; it must be a whole number from 1 on.")
        return SearchParameters(**{**defaults, **said})

    def wider(self, limit: int) -> SearchParameters | None:
        """Four times as far, at most ``limit``; None where that is reached."""
        reach = self.nprobe or self.ef_search
        if reach is None or reach >= limit:
            return None
        wider = min(4 * reach, limit)
        return SearchParameters(
            nprobe=wider if self.nprobe else None,
            ef_search=wider if self.ef_search else None,
            num_reranked=self.num_reranked,
        )


NAMES = tuple(field.name for field in fields(SearchParameters))
assert {name for names in TAKEN.values() for name in names} == set(NAMES)
