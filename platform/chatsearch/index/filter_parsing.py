"""Filters as JSON (docs/filters.md):

{"all": [{"field": "source", "in": ["coco", "flickr"]}, {"field": "year", "at_least": 2019}]}
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from chatsearch.errors import InputError, LimitExceededError, unknown_name
from chatsearch.index.filters import BOUNDS, AllOf, AnyOf, Between, Exists, Filter, Not, OneOf

MAX_DEPTH = 8
MAX_CONDITIONS = 256
MAX_TEXTS = 10_000
"""Texts that one filter holds, names of fields among them, all its conditions together."""
MAX_TEXT_CHARS = 4096
_GROUPS = ("all", "any", "not")
_CONDITIONS = ("equals", "in", *BOUNDS, "exists")


def parse_filter(value: object) -> Filter:
    """The filter that a JSON value describes.

    Raises:
        InputError: an unknown operator, or a value of a type that its operator does not take.
        LimitExceededError: nested too deep, too many conditions or texts, or too long a text.
    """
    return _Parser().parse(value, 1)


class _Parser:
    """Counts what one filter holds."""

    def __init__(self) -> None:
        self._num_conditions = 0
        self._num_texts = 0

    def parse(self, value: object, depth: int) -> Filter:
        self._num_conditions += 1
        for what, number, limit in (
            ("is nested", depth, MAX_DEPTH),
            ("holds conditions", self._num_conditions, MAX_CONDITIONS),
        ):
            if number > limit:
                raise LimitExceededError(
                    f"The filter {what} {number} or more; at most {limit} are taken. Ask in parts."
                )
        if not isinstance(value, Mapping):
            raise InputError(
                f"A filter is a JSON object such as {{'field': 'source', 'equals': 'coco'}}; got {_shown(value)}."
            )
        for name in value:
            if name not in (*_GROUPS, "field", *_CONDITIONS):
                raise InputError(unknown_name("filter operator", str(name)[:60], (*_GROUPS, "field", *_CONDITIONS)))
        if "field" in value:
            return self._condition(value)
        if len(value) != 1 or next(iter(value)) not in _GROUPS:
            raise InputError(
                f"A filter is a condition with a 'field', or has one of {', '.join(_GROUPS)} alone; got {_shown(value)}."
            )
        ((operator, inner),) = value.items()
        if operator == "not":
            return Not(self.parse(inner, depth + 1))
        conditions = tuple(self.parse(one, depth + 1) for one in _listed(operator, inner))
        return AllOf(conditions) if operator == "all" else AnyOf(conditions)

    def _condition(self, value: Mapping[str, Any]) -> Filter:
        field = self._text(value["field"])
        said = {name: wanted for name, wanted in value.items() if name != "field"}
        if said.keys() <= set(BOUNDS) and said:
            for name, bound in said.items():
                if bound is None:
                    raise InputError(f"The range of field {field!r} has {name} null; give a number, or leave it out.")
            return Between(field, **said)
        if len(said) != 1 or next(iter(said)) not in _CONDITIONS:
            raise InputError(
                f"The condition on field {field!r} has {', '.join(said) or 'nothing to compare with'}; give one of equals, in or exists, "
                f"or bounds of a range ({', '.join(BOUNDS)})."
            )
        ((operator, wanted),) = said.items()
        if operator == "equals":
            return OneOf(field, (self._text(wanted),))
        if operator == "in":
            return OneOf(field, tuple(self._text(text) for text in _listed(operator, wanted)))
        if not isinstance(wanted, bool):
            raise InputError(f"'exists' of field {field!r} is {_shown(wanted)}; it is true or false.")
        return Exists(field) if wanted else Not(Exists(field))

    def _text(self, value: Any) -> Any:
        """The same, which the condition itself finds to be a text or not."""
        self._num_texts += 1
        if self._num_texts > MAX_TEXTS:
            raise LimitExceededError(f"The filter holds more than {MAX_TEXTS} texts. Ask in parts.")
        if isinstance(value, str) and len(value) > MAX_TEXT_CHARS:
            raise LimitExceededError(
                f"The filter holds a text of {len(value)} characters; at most {MAX_TEXT_CHARS} are taken."
            )
        return value


def _listed(operator: str, value: object) -> Sequence[Any]:
    if not isinstance(value, (list, tuple)):
        raise InputError(f"{operator!r} takes a list; got {_shown(value)}.")
    return value


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}..."
