"""Rows that earlier feature stores hold already: where they are, and reading them part by part.

A picture is known by its content hash, so a row of the same encoder is the row that encoding it again would give. Its bits are kept
as they are.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from chatsearch.errors import ConfigError, FingerprintMismatchError
from chatsearch.index.config import EmbedConfig
from chatsearch.index.features import FeatureStore, Rows

_PARTS_KEPT = 2


class EarlierRows:
    """The part files of earlier stores, numbered through in the order of the stores."""

    def __init__(self, uris: Sequence[str]) -> None:
        """Opens the stores. Raises ArtefactError if one is not finished or damaged."""
        self.stores = [FeatureStore.open(uri) for uri in uris]
        self._parts = [(store, name) for store in self.stores for name in store.parts]
        self._read: OrderedDict[int, Rows] = OrderedDict()

    def check(self, config: EmbedConfig, encoder: Mapping[str, str]) -> None:
        """Refuse stores whose rows are not what a configuration asks for.

        Raises:
            FingerprintMismatchError: another encoder or preprocessing made one, with both fingerprints.
            ConfigError: one holds less than is asked for.
        """
        for store in self.stores:
            for name, ours in encoder.items():
                theirs = store.artefact.manifest.facts[name]
                if theirs != ours:
                    raise FingerprintMismatchError(
                        f"reuse={store.uri} was made with {name} {theirs}; model {config.model} has {ours}, so none of its rows can be "
                        "reused. Leave it out of reuse: its pictures are then embedded with this model."
                    )
            lacks = [
                *(["tokens"] if config.tokens and store.token_shape is None else []),
                *(["float32 features"] if config.dtype == "float32" and store.dtype != "float32" else []),
                *(
                    [f"thumbnails of {config.thumbnail_px} pixels (but of {store.thumbnail_px})"]
                    if config.thumbnail_px not in (0, store.thumbnail_px)
                    else []
                ),
            ]
            if lacks:
                raise ConfigError(
                    f"reuse={store.uri} holds no {' and no '.join(lacks)}, which this configuration asks for. Leave it out of reuse, or "
                    f"ask for no more than it holds (tokens={str(store.token_shape is not None).lower()}, dtype={store.dtype}, "
                    f"thumbnail_px={store.thumbnail_px})."
                )

    def find(self, hashes: Collection[str]) -> NDArray[np.int64]:
        """Part file and row in it of each picture, (N, 2); -1 where no store holds it. The first store that does counts."""
        wanted_N = np.array(list(hashes), dtype="S64")
        order_N = np.argsort(wanted_N)
        sorted_N = wanted_N[order_N]
        places_N2 = np.full((len(wanted_N), 2), -1, dtype=np.int64)
        for number, (store, name) in enumerate(self._parts):
            held_R = np.array(store.part_hashes(name), dtype="S64")
            at_R = np.minimum(np.searchsorted(sorted_N, held_R), len(sorted_N) - 1)
            rows = np.flatnonzero(sorted_N[at_R] == held_R)
            found = order_N[at_R[rows]]
            new = places_N2[found, 0] < 0
            places_N2[found[new]] = np.stack([np.full(new.sum(), number), rows[new]], axis=1)
        return places_N2

    def part(self, number: int) -> Rows:
        """All rows of a part file; the last few that were read are kept."""
        if number not in self._read:
            store, name = self._parts[number]
            self._read[number] = store.part_rows(name)
            while len(self._read) > _PARTS_KEPT:
                self._read.popitem(last=False)
        return self._read[number]
