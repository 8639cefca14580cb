"""Metadata columns of a corpus as the attributes of documents: free text under each name."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any


def attributes_of(values: Mapping[str, Any], names: Sequence[str]) -> dict[str, str]:
    """The named values that are there: text as it is, times as ISO 8601, anything else as JSON."""
    return {name: _text(values[name]) for name in names if values.get(name) is not None}


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if hasattr(value, "isoformat"):
        return str(value.isoformat())
    return json.dumps(value, ensure_ascii=False, default=str)
