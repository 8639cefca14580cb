"""Files of one record a line, cut into partitions."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

from chatsearch.corpora.base import Partition


def split_lines(data: bytes) -> list[bytes]:
    """The lines with their ends."""
    return data.splitlines(keepends=True)


def line_runs(
    lines: Sequence[bytes], size: int, id_of: Callable[[bytes], str | None], *, num_header_lines: int = 0
) -> list[Partition]:
    """Runs of ``size`` lines; the one scan also finds the ids that occur twice.

    Args:
        lines: of the whole file, with their ends.
        size: records in a partition.
        id_of: the id of a line, None for a line without.
        num_header_lines: lines at the start that are no records.

    Returns:
        Partitions with ``first`` (number of the first line, from 0), ``start`` and ``length`` in bytes, and ``repeated``
        (numbers of lines whose id an earlier line has).
    """
    starts: list[dict[str, Any]] = []
    seen: set[bytes] = set()
    position = sum(map(len, lines[:num_header_lines]))
    for number, line in enumerate(lines[num_header_lines:], start=num_header_lines):
        if (number - num_header_lines) % size == 0:
            starts.append({"first": number, "start": position, "length": 0, "repeated": []})
        position += len(line)
        starts[-1]["length"] += len(line)
        record_id = id_of(line)
        if record_id is not None:
            key = hashlib.blake2b(record_id.encode(errors="surrogatepass"), digest_size=12).digest()
            if key in seen:
                starts[-1]["repeated"].append(number)
            seen.add(key)
    return [Partition(index, payload) for index, payload in enumerate(starts)]
