"""Every error says something, survives a trip between processes, and is found inside an engine's wrapping."""

from __future__ import annotations

import inspect
import pickle

import pytest
from chatsearch import errors
from chatsearch.errors import ChatSearchError, InputError, StorageError, UnknownNameError, named_cause

ALL = [cls for _, cls in inspect.getmembers(errors, inspect.isclass) if issubclass(cls, ChatSearchError)]


@pytest.mark.parametrize("cls", ALL, ids=lambda cls: cls.__name__)
def test_an_error_keeps_class_and_message_when_pickled(cls: type[ChatSearchError]) -> None:
    again = pickle.loads(pickle.dumps(cls("disk is full: 0 bytes left")))  # noqa: S301 -- our own bytes
    assert type(again) is cls
    assert str(again) == "disk is full: 0 bytes left"


@pytest.mark.parametrize("cls", ALL, ids=lambda cls: cls.__name__)
def test_an_empty_message_is_a_bug(cls: type[ChatSearchError]) -> None:
    with pytest.raises(AssertionError):
        cls("")


def test_the_tree_on_top_of_the_module_names_every_class_under_its_parent() -> None:
    parents: dict[str, str] = {}
    stack: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        name = line.strip(" |-").split(" ")[0]
        if not name.endswith("Error"):
            continue
        depth = (line.index(name) - 4) // 4
        stack[depth:] = [name]
        parents[name] = stack[depth - 1] if depth else "Exception"
    assert parents == {cls.__name__: cls.__mro__[1].__name__ for cls in ALL}


def test_unknown_names_offer_the_nearest() -> None:
    known = ["train.zero_stage", "train.steps", "model.num_queries"]
    assert "Did you mean 'train.steps'" in str(UnknownNameError.among("key", "train.step", known))
    # The last part of a dotted key is what people remember.
    assert "'model.num_queries'" in str(UnknownNameError.among("key", "num_queries", known))
    nothing_near = str(UnknownNameError.among("recipe", "xyz", ["tiny", "small"]))
    assert nothing_near == "Unknown recipe 'xyz'. Known: small, tiny."


def test_a_long_list_is_shown_only_when_nothing_is_near() -> None:
    many = [f"key{n:03d}" for n in range(100)]
    assert "Known" not in str(UnknownNameError.among("key", "key00", many))
    assert "key099" in str(UnknownNameError.among("key", "zzz", many))


class _Wrapped(Exception):
    def __init__(self, cause: BaseException) -> None:
        super().__init__("wrapped")
        self.cause = cause


class _StandIn(StorageError):
    """As Ray makes them: of our class, with a trace for a message and the original inside."""

    def __init__(self, cause: BaseException) -> None:
        super().__init__("Traceback ...")
        self.cause = cause


def test_our_error_is_found_inside_others() -> None:
    ours = StorageError("the bucket is gone")
    assert named_cause(ours) is ours
    assert named_cause(_Wrapped(_Wrapped(ours))) is ours
    assert named_cause(_StandIn(ours)) is ours
    with pytest.raises(RuntimeError) as caught:
        raise RuntimeError("engine") from ours
    assert named_cause(caught.value) is ours
    assert named_cause(RuntimeError("nobody's")) is None
    circle = RuntimeError("circle")
    circle.__cause__ = circle
    assert named_cause(circle) is None
    assert isinstance(ours, ChatSearchError) and not isinstance(ours, InputError)
