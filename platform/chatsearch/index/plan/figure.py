"""A number that is not exact: its value, its error band and where it comes from."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Figure:
    """A number that lies between ``low`` and ``high``; ``high`` may be infinite."""

    value: float
    low: float
    high: float
    source: str
    """``exact: ...``, ``measured: ...`` or ``assumed: ...``."""

    def __post_init__(self) -> None:
        assert self.low <= self.value <= self.high, "a value lies in its band"

    @classmethod
    def about(cls, value: float, factor: float, source: str) -> Figure:
        """A number known up to a factor: between ``value / factor`` and ``value * factor``."""
        return cls(value, value / factor, value * factor, source)

    @property
    def factor(self) -> float:
        """How far off a positive value may be, as a factor."""
        return max(self.high / self.value, self.value / self.low)

    def as_json(self) -> dict[str, Any]:
        """Value, band and source; an infinite end is null."""
        high = None if math.isinf(self.high) else self.high
        return {"value": self.value, "low": self.low, "high": high, "source": self.source}


def joint_factor(*figures: Figure) -> float:
    """Factor of a product or quotient of figures whose errors are independent: their logarithms add in quadrature."""
    return math.exp(math.sqrt(sum(math.log(figure.factor) ** 2 for figure in figures)))


def weakest_source(*figures: Figure) -> str:
    """The source of the figure with the widest band: what to measure first to know better."""
    return max(figures, key=lambda figure: figure.factor).source
