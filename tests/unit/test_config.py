"""Configuration: checked when built, overridden by dotted keys, hashed by what decides the bytes."""

from __future__ import annotations

import pytest
from chatsearch.config import Config, apply_overrides, digest, flatten, known_keys, runtime
from chatsearch.errors import ConfigError, UnknownNameError
from pydantic import Field, ValidationError, model_validator


class Inner(Config):
    rate: float = Field(0.1, gt=0)
    name: str = "adam"
    workers: int = runtime(2)


class Window(Config):
    first: int = 0
    last: int = 9

    @model_validator(mode="after")
    def _check(self) -> Window:
        if self.first > self.last:
            raise ConfigError(f"first={self.first} is more than last={self.last}.")
        return self


class Outer(Config):
    window: Window = Window()
    steps: int = 10
    inner: Inner = Inner()
    parts: tuple[Inner, ...] = (Inner(),)
    tags: dict[str, int] = Field({})
    output: str = runtime("")


def test_unknown_fields_and_changes_are_refused() -> None:
    with pytest.raises(ValidationError, match="Extra inputs"):
        Outer(stepz=1)  # type: ignore[call-arg]
    with pytest.raises(ValidationError, match="frozen"):
        Outer().steps = 3  # type: ignore[misc]


def test_replace_checks_like_building_does() -> None:
    assert Outer().replace(steps=3).steps == 3
    with pytest.raises(ValidationError):
        Inner().replace(rate=-1.0)


def test_content_leaves_out_what_only_changes_the_run() -> None:
    assert Outer(output="/there", inner=Inner(workers=9)).content() == Outer().content()
    assert Outer(steps=11).content() != Outer().content()
    assert Outer(inner=Inner(rate=0.2)).content() != Outer().content()
    assert Outer().content() == {
        "window": {"first": 0, "last": 9},
        "steps": 10,
        "inner": {"rate": 0.1, "name": "adam"},
        "parts": [{"rate": 0.1, "name": "adam"}],
        "tags": {},
    }


def test_digest_ignores_the_order_of_keys_only() -> None:
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
    assert digest([1, 2]) != digest([2, 1])
    assert digest("ab", "c") != digest("a", "bc")


@pytest.mark.parametrize(
    ("setting", "path", "value"),
    [
        ("steps=12", ("steps",), 12),
        ("inner.rate=0.5", ("inner", "rate"), 0.5),
        ("inner.name=sgd", ("inner", "name"), "sgd"),
        ('tags={"a": 1}', ("tags",), {"a": 1}),
        ("output=s3://b/c=d", ("output",), "s3://b/c=d"),
    ],
)
def test_settings_reach_their_field(setting: str, path: tuple[str, ...], value: object) -> None:
    found: object = apply_overrides(Outer(), [setting])
    for name in path:
        found = getattr(found, name)
    assert found == value


def test_the_last_of_several_settings_wins_and_the_original_stays() -> None:
    config = Outer()
    assert apply_overrides(config, ["steps=1", "steps=2"]).steps == 2
    assert config.steps == 10


@pytest.mark.parametrize("settings", [["window.first=20", "window.last=30"], ["window.last=30", "window.first=20"]])
def test_settings_that_fit_only_together_come_in_any_order(settings: list[str]) -> None:
    assert apply_overrides(Outer(), settings).window == Window(first=20, last=30)
    with pytest.raises(ConfigError, match="first=20 is more than last=9"):
        apply_overrides(Outer(), ["window.first=20"])


def test_a_part_of_what_was_set_as_a_whole() -> None:
    whole = apply_overrides(Outer(), ['inner={"name": "sgd"}', "inner.rate=0.5"])
    assert whole.inner == Inner(name="sgd", rate=0.5)
    items = apply_overrides(Outer(), ['parts=[{"name": "sgd"}, {}]', "parts.0.rate=0.5", 'parts.1={"rate": 3}'])
    assert items.parts == (Inner(name="sgd", rate=0.5), Inner(rate=3))
    assert apply_overrides(items, ['parts.0={"rate": 4}', "parts.0.workers=5"]).parts[0] == Inner(rate=4, workers=5)
    assert apply_overrides(items, ["inner.rate=0.5", "inner={}"]).inner == Inner()


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("steps", "Write it as key.path=value"),
        ("=3", "Write it as key.path=value"),
        ("steps=many", "Cannot set steps to 'many'"),
        ("inner.rate=-1", "Cannot set inner.rate to -1: Input should be greater than 0"),
        ("steps.more=1", "'steps.more' goes into 'steps', which holds 10"),
        ("tags.a=1", "has no fields"),
    ],
)
def test_a_bad_setting_is_named(setting: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        apply_overrides(Outer(), [setting])


@pytest.mark.parametrize(
    ("setting", "near"), [("stps=1", "'steps'"), ("inner.rat=1", "'inner.rate'"), ("rate=1", "'inner.rate'")]
)
def test_an_unknown_key_offers_the_nearest(setting: str, near: str) -> None:
    with pytest.raises(UnknownNameError, match=near):
        apply_overrides(Outer(), [setting])


def test_keys_and_flat_values() -> None:
    assert known_keys(Outer())[3:8] == ["steps", "inner", "inner.rate", "inner.name", "inner.workers"]
    flat = flatten(Outer())
    assert flat["inner.rate"] == 0.1
    assert flat["parts.0.name"] == "adam"
    assert flat["tags"] == {}


def test_items_of_a_list_are_set_by_position() -> None:
    changed = apply_overrides(Outer(parts=(Inner(), Inner())), ["parts.1.rate=0.7"])
    assert [part.rate for part in changed.parts] == [0.1, 0.7]
    assert "parts.1.rate" in known_keys(changed)
    assert set(flatten(changed)) - {"tags"} <= set(known_keys(changed))
    with pytest.raises(UnknownNameError, match=r"parts\.0\.rate"):
        apply_overrides(Outer(), ["parts.1.rate=0.7"])
    with pytest.raises(ConfigError, match="greater than 0"):
        apply_overrides(Outer(), ["parts.0.rate=-1"])
