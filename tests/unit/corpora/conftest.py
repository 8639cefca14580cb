"""Small captioned folders and tars to read."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture
def captioned_folder(tmp_path: Path) -> Callable[..., Path]:
    """Makes a captioned folder from raw lines (dicts or strings) and files."""

    def make(lines: list[dict | str], files: dict[str, bytes]) -> Path:
        folder = tmp_path / "captioned"
        folder.mkdir()
        for name, data in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(data)
        rows = [line if isinstance(line, str) else json.dumps(line) for line in lines]
        (folder / "captions.jsonl").write_text("".join(row + "\n" for row in rows), encoding="utf-8")
        return folder

    return make
