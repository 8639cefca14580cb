"""Conversations in SQL: what is kept, and how a database that fails is named."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
from chatsearch.converse.dialogue import Dialogue
from chatsearch.errors import StorageError
from fastapi.testclient import TestClient

from serve.store import ConversationStore
from tests.unit.serve.conftest import open_client
from tests.unit.serve.local import LocalBackend


def test_the_folder_of_the_database_is_made(tmp_path: Path) -> None:
    opened = ConversationStore(f"sqlite:///{tmp_path}/new/folder/conversations.db")
    made = opened.create()
    assert opened.load(made.conversation_id).dialogue == Dialogue()
    opened.close()


def test_a_database_that_cannot_be_opened_is_named_without_its_password(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(StorageError, match=r"file/conversations\.db"):
        ConversationStore(f"sqlite:///{tmp_path}/file/conversations.db")
    with pytest.raises(StorageError) as raised:
        ConversationStore("nosuchdialect://me:secret@host/x")
    assert "secret" not in str(raised.value)


Operation = Callable[[ConversationStore, str], object]
OPERATIONS: list[Operation] = [
    lambda store, _: store.create(),
    lambda store, name: store.load(name),
    lambda store, name: store.uploads(name),
    lambda store, name: store.upload(name, "0" * 64),
    lambda store, name: store.delete(name),
    lambda store, name: store.save(store.load(name), Dialogue().say("x")),
]


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_database_that_breaks_later_is_a_named_storage_error(
    store: ConversationStore, tmp_path: Path, operation: Operation
) -> None:
    made = store.create()
    with sqlite3.connect(tmp_path / "conversations.db") as other:
        other.executescript("DROP TABLE uploads; DROP TABLE conversations;")
    with pytest.raises(StorageError, match="no such table"):
        operation(store, made.conversation_id)


def test_over_http_it_is_a_503_with_retry_after_that_names_no_path(
    backend: LocalBackend, store: ConversationStore, tmp_path: Path
) -> None:
    with sqlite3.connect(tmp_path / "conversations.db") as other:
        other.executescript("DROP TABLE uploads; DROP TABLE conversations;")
    client: TestClient
    with open_client(backend, store) as client:
        for answer in (client.post("/v1/conversations"), client.get("/v1/conversations/x")):
            assert answer.status_code == 503
            assert answer.json()["type"] == "urn:chatsearch:problem:storage"
            assert answer.headers["retry-after"] == "2"
            assert "table" not in answer.text
            assert str(tmp_path) not in answer.text
