"""Typed, frozen configuration: checked when built, overridden by dotted keys, hashed into fingerprints."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Self, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError

from chatsearch.errors import ConfigError, UnknownNameError

C = TypeVar("C", bound="Config")


def _as_tuple(value: object) -> object:
    return (value,) if isinstance(value, str) and value else value or ()


Names = Annotated[tuple[str, ...], BeforeValidator(_as_tuple)]
"""Any number of URIs or other names; one may be given as it is: ``--set gallery=URI``."""


def runtime(default: Any, **kwargs: Any) -> Any:
    """A field that changes how a job runs but not the bytes it makes: kept out of fingerprints."""
    return Field(default, json_schema_extra={"runtime": True}, **kwargs)


class Config(BaseModel):
    """Base of all configuration. Frozen; unknown fields are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, protected_namespaces=())

    def replace(self, **changes: Any) -> Self:
        """A checked copy with some fields changed."""
        return type(self).model_validate({**dict(self), **changes})

    def content(self) -> dict[str, Any]:
        """The fields that decide the bytes of the output, as plain JSON values."""
        out: dict[str, Any] = {}
        for name, info in type(self).model_fields.items():
            extra = info.json_schema_extra
            if isinstance(extra, Mapping) and extra.get("runtime"):
                continue
            out[name] = _content_of(getattr(self, name))
        return out


def _content_of(value: Any) -> Any:
    if isinstance(value, Config):
        return value.content()
    if isinstance(value, (list, tuple)):
        return [_content_of(v) for v in value]
    if isinstance(value, dict):
        return {k: _content_of(v) for k, v in value.items()}
    return json.loads(json.dumps(value))


def digest(*parts: Any) -> str:
    """A short stable hash (16 hex digits) of JSON values."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def apply_overrides(config: C, settings: Sequence[str]) -> C:
    """Apply ``key.path=value`` settings.

    Values are read as JSON where they are JSON (numbers, true, null, lists, objects), else as strings. All are applied
    before anything is checked, so settings that fit only together may come in any order; of one key the last wins.

    Raises:
        UnknownNameError: no such key; the message offers the nearest.
        ConfigError: a setting without "=", or a value that does not fit its field.
    """
    draft = _Draft(config)
    for setting in settings:
        key, eq, raw = setting.partition("=")
        if not eq or not key:
            raise ConfigError(f"Cannot read setting {setting!r}. Write it as key.path=value.")
        draft.set(config, key, key.split("."), _parse(raw))
    built: C = draft.build()
    return built


def _parse(raw: str) -> Any:
    try:
        return json.loads(raw)
    except (ValueError, RecursionError):
        return raw


class _Draft:
    """A configuration with settings that are not checked yet."""

    def __init__(self, node: Config) -> None:
        self._node = node
        self._changes: dict[str, Any] = {}
        """New value by field: plain, a draft, or a list of items and drafts."""
        self._settings: dict[str, tuple[str, Any]] = {}
        """The last setting of each field, for messages."""

    def set(self, root: Config, key: str, path: list[str], value: Any) -> None:
        """Note one setting; ``path`` is what of ``key`` is left below this node."""
        name, rest = path[0], path[1:]
        fields = type(self._node).model_fields
        if name not in fields:
            raise UnknownNameError.among("configuration key", key, known_keys(root))
        self._settings[name] = (key, value)
        if not rest:
            self._changes[name] = value
            return
        current = self._changes.get(name, getattr(self._node, name))
        if name in self._changes and isinstance(current, (dict, list)) and not _holds_configs(current):
            current = self._checked(name, current)  # set as a whole before, now a part of it
        if _holds_configs(current):
            self._changes[name] = _set_item(root, current, key, rest, value)
            return
        if not isinstance(current, (Config, _Draft)):
            raise ConfigError(f"{key!r} goes into {name!r}, which holds {current!r} and has no fields.")
        draft = current if isinstance(current, _Draft) else _Draft(current)
        draft.set(root, key, rest, value)
        self._changes[name] = draft

    def build(self) -> Any:
        """The checked configuration.

        Raises:
            ConfigError: a value does not fit its field, or two do not fit each other.
        """
        changes = {name: _built(value) for name, value in self._changes.items()}
        try:
            return self._node.replace(**changes)
        except ValidationError as error:
            raise self._refusal(error) from error

    def _checked(self, name: str, value: Any) -> Any:
        info = type(self._node).model_fields[name]
        kind: Any = Annotated[info.annotation, info]
        try:
            return TypeAdapter(kind).validate_python(_built(value))
        except ValidationError as error:
            raise self._refusal(error) from error

    def _refusal(self, error: ValidationError) -> ConfigError:
        problem = error.errors()[0]
        name = str(problem["loc"][0]) if problem["loc"] else ""
        key, value = self._settings.get(name) or list(self._settings.values())[-1]
        return ConfigError(f"Cannot set {key} to {value!r}: {problem['msg']}.")


def _built(value: Any) -> Any:
    if isinstance(value, list):
        return [_built(item) for item in value]
    return value.build() if isinstance(value, _Draft) else value


def _set_item(root: Config, items: Sequence[Any], key: str, path: list[str], value: Any) -> list[Any]:
    """The items with one of them changed: ``streams.0.per_step`` counts from 0, as a plan prints it."""
    place, rest = path[0], path[1:]
    if place not in {str(n) for n in range(len(items))}:
        raise UnknownNameError.among("configuration key", key, known_keys(root))
    changed, at = list(items), int(place)
    if not rest:
        changed[at] = value
        return changed
    if not isinstance(changed[at], _Draft):
        changed[at] = _Draft(changed[at])
    changed[at].set(root, key, rest, value)
    return changed


def _holds_configs(value: Any) -> bool:
    return (
        isinstance(value, (list, tuple)) and bool(value) and all(isinstance(item, (Config, _Draft)) for item in value)
    )


def known_keys(config: Config, prefix: str = "") -> list[str]:
    """All dotted keys that ``--set`` accepts."""
    keys = []
    for name in type(config).model_fields:
        keys.append(prefix + name)
        value = getattr(config, name)
        if isinstance(value, Config):
            keys += known_keys(value, f"{prefix}{name}.")
        elif _holds_configs(value):
            for position, item in enumerate(value):
                keys += known_keys(item, f"{prefix}{name}.{position}.")
    return keys


def flatten(config: Config, prefix: str = "") -> dict[str, Any]:
    """Leaf values under dotted keys, for plans and trackers."""
    flat: dict[str, Any] = {}
    for name in type(config).model_fields:
        value = getattr(config, name)
        if isinstance(value, Config):
            flat |= flatten(value, f"{prefix}{name}.")
        elif isinstance(value, (list, tuple)) and any(isinstance(v, Config) for v in value):
            for position, item in enumerate(value):
                inner = flatten(item, f"{prefix}{name}.{position}.") if isinstance(item, Config) else {}
                flat |= inner or {f"{prefix}{name}.{position}": item}
        else:
            flat[prefix + name] = value
    return flat
