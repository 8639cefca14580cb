"""A tiny random model over a small gallery."""

from __future__ import annotations

import pytest
from chatsearch.converse.engine import Engine
from chatsearch.model.bundle import ModelBundle
from chatsearch.testing.tiny import tiny_bundle

from tests.unit.converse.memory import MemoryGallery


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> ModelBundle:
    return tiny_bundle(str(tmp_path_factory.mktemp("bundle")))


@pytest.fixture
def gallery(bundle: ModelBundle) -> MemoryGallery:
    return MemoryGallery(bundle)


@pytest.fixture
def engine(bundle: ModelBundle, gallery: MemoryGallery) -> Engine:
    return Engine(bundle, gallery, gallery)
