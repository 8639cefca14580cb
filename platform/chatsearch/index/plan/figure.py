"""A number that is not exact: its value, its error band and where it comes from."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Figure:
    """A positive number known up to a factor: it lies between ``value / factor`` and ``value * factor``."""

    value: float
    factor: float
    source: str
    """``exact: ...``, ``measured: ...`` or ``assumed: ...``."""

    def __post_init__(self) -> None:
        assert self.factor >= 1.0, "a band is not narrower than nothing"

    @property
    def low(self) -> float:
        """Lower end of the band."""
        return self.value / self.factor

    @property
    def high(self) -> float:
        """Upper end of the band."""
        return self.value * self.factor

    def as_json(self) -> dict[str, Any]:
        """Value, band and source."""
        return {"value": self.value, "low": self.low, "high": self.high, "source": self.source}


def joint_factor(*figures: Figure) -> float:
    """Factor of a product or quotient of figures whose errors are independent: their logarithms add in quadrature."""
    return math.exp(math.sqrt(sum(math.log(figure.factor) ** 2 for figure in figures)))


def weakest_source(*figures: Figure) -> str:
    """The source of the figure with the widest band: what to measure first to know better."""
    return max(figures, key=lambda figure: figure.factor).source
