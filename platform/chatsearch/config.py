"""Typed, frozen configuration: checked when built, overridden by dotted keys, hashed into fingerprints."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from chatsearch.errors import ConfigError, UnknownNameError

C = TypeVar("C", bound="Config")


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

    Values are read as JSON where they are JSON (numbers, true, null, lists, objects), else as strings.

    Raises:
        UnknownNameError: no such key; the message offers the nearest.
        ConfigError: a setting without "=", or a value that does not fit its field.
    """
    for setting in settings:
        key, eq, raw = setting.partition("=")
        if not eq or not key:
            raise ConfigError(f"Cannot read setting {setting!r}. Write it as key.path=value.")
        config = _set(config, config, key, key.split("."), _parse(raw))
    return config


def _parse(raw: str) -> Any:
    try:
        return json.loads(raw)
    except ValueError:
        return raw


def _set(root: Config, node: C, key: str, path: list[str], value: Any) -> C:
    name, rest = path[0], path[1:]
    if name not in type(node).model_fields:
        raise UnknownNameError.among("configuration key", key, known_keys(root))
    current = getattr(node, name)
    if rest and _holds_configs(current):
        value = _set_item(root, current, key, rest, value)
    elif rest:
        if not isinstance(current, Config):
            raise ConfigError(f"{key!r} goes into {name!r}, which holds {current!r} and has no fields.")
        value = _set(root, current, key, rest, value)
    try:
        return node.replace(**{name: value})
    except ValidationError as error:
        problem = error.errors()[0]
        raise ConfigError(f"Cannot set {key} to {value!r}: {problem['msg']}.") from error


def _set_item(root: Config, items: Sequence[Any], key: str, path: list[str], value: Any) -> list[Any]:
    """The items with one of them changed: ``streams.0.per_step`` counts from 0, as a plan prints it."""
    place, rest = path[0], path[1:]
    if place not in {str(n) for n in range(len(items))}:
        raise UnknownNameError.among("configuration key", key, known_keys(root))
    changed = list(items)
    changed[int(place)] = _set(root, items[int(place)], key, rest, value) if rest else value
    return changed


def _holds_configs(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and bool(value) and all(isinstance(item, Config) for item in value)


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
