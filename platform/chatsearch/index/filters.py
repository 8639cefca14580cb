"""Filters on metadata: which items of a gallery a search may find.

Every filter can be asked twice: of one item's metadata in plain Python, which is its meaning, and of all rows of a shard at once.
Metadata are texts. A condition on a field that an item does not have does not hold, so its ``Not`` does.

Shape suffixes: N rows, V distinct texts of a field.
"""

from __future__ import annotations

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from chatsearch.errors import InputError, unknown_name

Mask = NDArray[np.bool_]

_NUMBER = re.compile(r"-?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?")


class Column(Protocol):
    """One field of all rows, its distinct texts numbered from 1 on; 0 stands for rows without the field."""

    @property
    def codes_N(self) -> NDArray[Any]:
        """Number of each row's text."""

    @property
    def numbers_V(self) -> NDArray[np.float64]:
        """:func:`number_of` each text, by its number; NaN where it is none."""

    def chosen_V(self, texts: Collection[str]) -> Mask:
        """Which texts are among these, by their number."""


class Columns(Protocol):
    """The metadata of some rows."""

    @property
    def num_rows(self) -> int:
        """N."""

    def column(self, field: str) -> Column:
        """One field of them, whether or not any has it."""


class Filter(ABC):
    """A condition on the metadata of an item. Immutable and hashable."""

    @abstractmethod
    def matches(self, metadata: Mapping[str, str]) -> bool:
        """Whether it holds for one item."""

    @abstractmethod
    def mask_N(self, columns: Columns) -> Mask:
        """For which rows it holds."""

    @abstractmethod
    def fields(self) -> frozenset[str]:
        """Names of the fields it asks for."""


@dataclass(frozen=True, slots=True)
class OneOf(Filter):
    """The field's text is one of these."""

    field: str
    texts: tuple[str, ...]

    def __post_init__(self) -> None:
        _check_field(self.field)
        if not isinstance(self.texts, tuple) or not self.texts:
            raise InputError(f"The condition on field {self.field!r} names no text; give at least one.")
        for text in self.texts:
            _check_text(text, f"The condition on field {self.field!r} compares")

    def matches(self, metadata: Mapping[str, str]) -> bool:
        """See :class:`Filter`."""
        return metadata.get(self.field) in self.texts

    def mask_N(self, columns: Columns) -> Mask:
        """See :class:`Filter`."""
        column = columns.column(self.field)
        return column.chosen_V(self.texts)[column.codes_N]

    def fields(self) -> frozenset[str]:
        """See :class:`Filter`."""
        return frozenset((self.field,))


@dataclass(frozen=True, slots=True)
class Between(Filter):
    """The field's text is a number within bounds, compared as 64-bit floats. Texts that are no numbers are not within any."""

    field: str
    at_least: float | None = None
    above: float | None = None
    at_most: float | None = None
    below: float | None = None

    def __post_init__(self) -> None:
        _check_field(self.field)
        bounds = {name: getattr(self, name) for name in BOUNDS}
        if not any(bound is not None for bound in bounds.values()):
            raise InputError(f"The range of field {self.field!r} has no bound; give one of {', '.join(BOUNDS)}.")
        for name, bound in bounds.items():
            if bound is not None:
                object.__setattr__(self, name, _checked_bound(self.field, name, bound))

    def holds(self, numbers: NDArray[np.float64]) -> Mask:
        """Which numbers are within the bounds; NaN is not."""
        within: Mask = ~np.isnan(numbers)
        if self.at_least is not None:
            within &= numbers >= self.at_least
        if self.above is not None:
            within &= numbers > self.above
        if self.at_most is not None:
            within &= numbers <= self.at_most
        if self.below is not None:
            within &= numbers < self.below
        return within

    def matches(self, metadata: Mapping[str, str]) -> bool:
        """See :class:`Filter`."""
        number = number_of(metadata.get(self.field))
        return (
            not math.isnan(number)
            and (self.at_least is None or number >= self.at_least)
            and (self.above is None or number > self.above)
            and (self.at_most is None or number <= self.at_most)
            and (self.below is None or number < self.below)
        )

    def mask_N(self, columns: Columns) -> Mask:
        """See :class:`Filter`."""
        column = columns.column(self.field)
        return self.holds(column.numbers_V)[column.codes_N]

    def fields(self) -> frozenset[str]:
        """See :class:`Filter`."""
        return frozenset((self.field,))


BOUNDS = ("at_least", "above", "at_most", "below")


@dataclass(frozen=True, slots=True)
class Exists(Filter):
    """The item has the field."""

    field: str

    def __post_init__(self) -> None:
        _check_field(self.field)

    def matches(self, metadata: Mapping[str, str]) -> bool:
        """See :class:`Filter`."""
        return metadata.get(self.field) is not None

    def mask_N(self, columns: Columns) -> Mask:
        """See :class:`Filter`."""
        mask_N: Mask = columns.column(self.field).codes_N > 0
        return mask_N

    def fields(self) -> frozenset[str]:
        """See :class:`Filter`."""
        return frozenset((self.field,))


@dataclass(frozen=True, slots=True)
class AllOf(Filter):
    """All of the conditions hold."""

    conditions: tuple[Filter, ...]

    def __post_init__(self) -> None:
        _check_conditions("all", self.conditions)

    def matches(self, metadata: Mapping[str, str]) -> bool:
        """See :class:`Filter`."""
        return all(condition.matches(metadata) for condition in self.conditions)

    def mask_N(self, columns: Columns) -> Mask:
        """See :class:`Filter`."""
        mask_N = self.conditions[0].mask_N(columns)
        for condition in self.conditions[1:]:
            mask_N = mask_N & condition.mask_N(columns)
        return mask_N

    def fields(self) -> frozenset[str]:
        """See :class:`Filter`."""
        return frozenset().union(*(condition.fields() for condition in self.conditions))


@dataclass(frozen=True, slots=True)
class AnyOf(Filter):
    """At least one of the conditions holds."""

    conditions: tuple[Filter, ...]

    def __post_init__(self) -> None:
        _check_conditions("any", self.conditions)

    def matches(self, metadata: Mapping[str, str]) -> bool:
        """See :class:`Filter`."""
        return any(condition.matches(metadata) for condition in self.conditions)

    def mask_N(self, columns: Columns) -> Mask:
        """See :class:`Filter`."""
        mask_N = self.conditions[0].mask_N(columns)
        for condition in self.conditions[1:]:
            mask_N = mask_N | condition.mask_N(columns)
        return mask_N

    def fields(self) -> frozenset[str]:
        """See :class:`Filter`."""
        return frozenset().union(*(condition.fields() for condition in self.conditions))


@dataclass(frozen=True, slots=True)
class Not(Filter):
    """The condition does not hold."""

    condition: Filter

    def __post_init__(self) -> None:
        _check_conditions("not", (self.condition,))

    def matches(self, metadata: Mapping[str, str]) -> bool:
        """See :class:`Filter`."""
        return not self.condition.matches(metadata)

    def mask_N(self, columns: Columns) -> Mask:
        """See :class:`Filter`."""
        return ~self.condition.mask_N(columns)

    def fields(self) -> frozenset[str]:
        """See :class:`Filter`."""
        return self.condition.fields()


def number_of(text: object) -> float:
    """The number that a text writes in decimals, with or without an exponent; NaN if it is none or beyond 64-bit floats."""
    if not isinstance(text, str) or not _NUMBER.fullmatch(text):
        return math.nan
    number = float(text)
    return number if math.isfinite(number) else math.nan


def check_filter(filter: object) -> None:
    """Check that what a search was given is a filter, or None.

    Raises:
        InputError: it is something else.
    """
    if filter is not None and not isinstance(filter, Filter):
        raise InputError(
            f"The filter is of type {type(filter).__name__}; make one with chatsearch.index.filter_parsing.parse_filter."
        )


def check_fields(filter: Filter | None, known: Collection[str]) -> None:
    """Check that a gallery has the fields of a filter.

    Args:
        filter: None asks for no field.
        known: all fields that items of the gallery have.

    Raises:
        InputError: naming the first one that no item has, and those that it could mean.
    """
    check_filter(filter)
    for field in sorted(filter.fields()) if filter else ():
        if field not in known:
            raise InputError(f"{unknown_name('metadata field', field, known)} No item of the gallery has it.")


def _check_field(field: object) -> None:
    _check_text(field, "A condition names the field")


def _check_text(text: object, what: str) -> None:
    if not isinstance(text, str):
        raise InputError(f"{what} {text!r}, which is no text; metadata are texts, so write it as {str(text)!r}.")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(f"{what} {text[:40]!r}, which is not valid Unicode: {error.reason}.") from error


def _checked_bound(field: str, name: str, bound: object) -> float:
    if isinstance(bound, (int, float)) and not isinstance(bound, bool):
        try:
            number = float(bound)
        except OverflowError:
            number = math.inf
        if math.isfinite(number):
            return number
    shown = repr(bound) if isinstance(bound, bool) or not isinstance(bound, int) else "a number beyond 64-bit floats"
    raise InputError(f"The range of field {field!r} has {name} {shown[:60]}; bounds are finite numbers, not texts.")


def _check_conditions(operator: str, conditions: object) -> None:
    if not isinstance(conditions, tuple) or not conditions:
        raise InputError(f"{operator!r} has no condition; give at least one.")
    for condition in conditions:
        if not isinstance(condition, Filter):
            raise InputError(f"{operator!r} holds {str(condition)[:60]!r}, which is no filter.")
