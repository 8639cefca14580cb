"""The forecast that a real build writes beside what it took: bytes of the index, seconds, peak memory."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from chatsearch.index.plan.rates import ASSUMED, Rates, read_rates
from chatsearch.index.plan.sizes import flat_bytes, id_map_bytes

_PROJECTED = 1 << 16
"""Rows that a build projects at a time in float64."""


@dataclass(frozen=True, slots=True)
class BuildFigures:
    """What one build takes, or took. The peak is over what the process held before; memory of tasks elsewhere is not in it."""

    bytes: int
    seconds: float
    peak_bytes: int


def forecast_build(
    *,
    items_per_shard: list[int],
    feature_dimension: int,
    dimension: int,
    rows_per_part: int,
    item_table_bytes: int,
    rates: Rates,
) -> BuildFigures:
    """What a build of a flat index takes.

    Args:
        items_per_shard: items of each shard.
        feature_dimension: width of f_CLS.
        dimension: width of the retrieval space.
        rows_per_part: most rows of a part of the feature store.
        item_table_bytes: size of the feature store's item table, which the shards' tables repeat.
        rates: of this machine where a probe measured them.
    """
    n = sum(items_per_shard)
    index = sum(id_map_bytes(rows, flat_bytes(rows, dimension)) for rows in items_per_shard)
    numbers = 4 * n * (feature_dimension + dimension)
    arrays = array_bytes(n, feature_dimension, dimension, rows_per_part=rows_per_part, num_shards=len(items_per_shard))
    return BuildFigures(
        index + item_table_bytes + 8 * n,
        n * rates.item_seconds.value + numbers / rates.vector_bytes.value,
        round(arrays + n * rates.item_memory.value),
    )


def array_bytes(n: int, feature_dimension: int, dimension: int, *, rows_per_part: int, num_shards: int) -> int:
    """Bytes of the arrays of a build at its peak: all projections, and beside them a part that is projected or a shard and its copy.

    Features of a part count three times: mapped from their file, decoded, and as Parquet's two levels of 16 bits a number, which
    Arrow's memory pool keeps after reading.
    """
    vectors = 4 * n * dimension
    rows = min(n, rows_per_part)
    part = 3 * 4 * rows * feature_dimension + 8 * min(rows, _PROJECTED) * (feature_dimension + 3 * dimension)
    return vectors + max(part, 2 * vectors // num_shards)


def forecast_beside_actual(forecast: BuildFigures | None, actual: BuildFigures, rates: Rates) -> dict[str, Any]:
    """Both as the manifest's facts hold them. They tell of a run, so they are no part of any fingerprint.

    Only flat indices are forecast.
    """
    held = {"forecast": asdict(forecast), "rates": rates.item_seconds.source} if forecast else {}
    return {**held, "actual": asdict(actual)}


def rates_at(path: str) -> Rates:
    """The rates a probe kept, or the assumed ones for an empty path.

    Raises:
        MissingInputError: if there is no such file.
        ConfigError: if it is not such a file.
    """
    return read_rates(path) if path else ASSUMED
