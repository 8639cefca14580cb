"""What a finished training must leave where the manifest goes."""

from __future__ import annotations

from pathlib import Path

import pytest
from chatsearch.errors import StorageError
from chatsearch.model.layout import BUNDLE_FILES
from chatsearch.storage import Folder
from chatsearch.train.run import check_bundle


def test_a_bundle_that_lies_on_another_node_is_named(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path))
    for name in BUNDLE_FILES[1:]:
        folder.write_bytes(name, b"")
    with pytest.raises(StorageError, match=rf"{BUNDLE_FILES[0]} cannot be seen .* s3://"):
        check_bundle(folder, folder.list())
    folder.write_bytes(BUNDLE_FILES[0], b"")
    check_bundle(folder, folder.list())
