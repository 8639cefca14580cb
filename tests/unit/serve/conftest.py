"""A client of the HTTP application over a tiny engine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from chatsearch.converse.engine import Engine
from chatsearch.model.bundle import ModelBundle
from chatsearch.testing.tiny import tiny_bundle
from fastapi.testclient import TestClient

from serve.http import build_http_app
from serve.settings import Limits, PageSettings
from serve.store import ConversationStore
from tests.unit.converse.memory import MemoryGallery
from tests.unit.serve.local import LocalBackend

LIMITS = Limits(max_new_tokens=8, max_tokens=400)


def open_client(backend: LocalBackend, store: ConversationStore, *, turn_timeout_s: float = 30) -> TestClient:
    """A client of the whole HTTP application, which was started on loopback."""
    app = build_http_app(
        backend,
        store,
        LIMITS,
        allowed_hosts=("127.0.0.1", "::1"),
        turn_timeout_s=turn_timeout_s,
        retry_after_s=2,
        page_settings=PageSettings(mode="always", examples=("a red ball",)),
    )
    return TestClient(app, base_url="http://127.0.0.1:8000", raise_server_exceptions=False)


@pytest.fixture(scope="package")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> ModelBundle:
    return tiny_bundle(str(tmp_path_factory.mktemp("bundle")))


@pytest.fixture
def gallery(bundle: ModelBundle) -> MemoryGallery:
    return MemoryGallery(bundle)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ConversationStore]:
    opened = ConversationStore(f"sqlite:///{tmp_path}/conversations.db")
    yield opened
    opened.close()


@pytest.fixture
def backend(bundle: ModelBundle, gallery: MemoryGallery) -> LocalBackend:
    return LocalBackend(Engine(bundle, gallery, gallery), gallery)


@pytest.fixture
def client(backend: LocalBackend, store: ConversationStore) -> Iterator[TestClient]:
    with open_client(backend, store) as opened:
        yield opened
