"""Asking an object store again."""

from __future__ import annotations

import errno
import math
import threading

import pytest
from chatsearch.errors import ConfigError, StorageError, UnreachableStoreError
from chatsearch.patience import Patience

URI = "s3://bucket/run"


class Store:
    """Fails so many times, then answers."""

    def __init__(self, num_failures: float, error: Exception | None = None) -> None:
        self.num_failures = num_failures
        self.error = error or StorageError("Cannot read it.")
        self.num_calls = 0
        self.failed = threading.Event()

    def __call__(self) -> str:
        self.num_calls += 1
        if self.num_calls <= self.num_failures:
            self.failed.set()
            raise self.error
        return "there"


@pytest.mark.parametrize("error", [StorageError("Cannot read it."), OSError("no route")])
def test_a_store_that_comes_back_is_said_to_be_gone_once_and_back_once(error: Exception) -> None:
    said: list[str] = []
    store = Store(2, error)
    assert Patience(URI, 60.0, said.append).insist(store) == "there"
    assert store.num_calls == 3
    assert len(said) == 2
    assert str(error) in said[0]
    assert "is asked again" in said[0]
    assert said[1].startswith(f"{URI} answers again, after ")
    assert Patience(URI, 60.0, said.append).insist(Store(0)) == "there"
    assert len(said) == 2


def test_one_that_stays_away_is_named_with_how_long_it_was_waited_for() -> None:
    store = Store(math.inf)
    with pytest.raises(
        UnreachableStoreError, match=r"Cannot read it\. It was asked again for 0 s; store_patience_s"
    ) as caught:
        Patience(URI, 0.0).insist(store)
    assert store.num_calls == 1
    with pytest.raises(UnreachableStoreError) as again:
        Patience(URI, 60.0).insist(Store(9, caught.value))
    assert again.value is caught.value, "it has been waited for"


@pytest.mark.parametrize(
    ("uri", "error"),
    [
        ("/data/run", StorageError("The disk is full.")),
        (URI, ConfigError("wrong")),
        (URI, FileNotFoundError("it")),
        (URI, OSError(errno.ENOSPC, "No space left on device")),
        (URI, OSError("AWS Error ACCESS_DENIED during PutObject operation")),
    ],
)
def test_what_does_not_come_back_is_raised_at_once(uri: str, error: Exception) -> None:
    store = Store(math.inf, error)
    with pytest.raises(type(error)) as caught:
        Patience(uri, 60.0).insist(store)
    assert caught.value is error
    assert store.num_calls == 1


def test_another_thread_may_end_it() -> None:
    store, patience = Store(math.inf), Patience(URI, math.inf)
    found: list[Exception] = []

    def ask() -> None:
        try:
            patience.insist(store)
        except UnreachableStoreError as error:
            found.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    store.failed.wait()
    patience.end_in(0.0)
    thread.join(60)
    assert len(found) == 1
    assert store.num_calls >= 2, "one more try"
