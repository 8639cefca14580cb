"""Rules of the house that a reader relies on: small files, docstring-only packages, no shadowed ``platform``."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MAX_LINES = 400
MAX_JOB_LINES = 120
SOURCES = sorted(path for top in ("platform", "jobs", "serve") for path in (ROOT / top).rglob("*.py"))


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_file_is_small(path: Path) -> None:
    lines = path.read_text().count("\n")
    thin = path.parent == ROOT / "jobs" and (path.parent / "recipes" / path.name).is_file()
    assert lines <= (MAX_JOB_LINES if thin else MAX_LINES)


@pytest.mark.parametrize(
    "path", [p for p in SOURCES if p.name == "__init__.py"], ids=lambda p: str(p.relative_to(ROOT))
)
def test_package_is_a_docstring(path: Path) -> None:
    body = ast.parse(path.read_text()).body
    assert isinstance(body[0], ast.Expr)
    rest = body[1:]
    assert all(isinstance(node, ast.Assign) and node.targets[0].id == "__version__" for node in rest)  # type: ignore[attr-defined]


def test_no_unfinished_work_is_left_in_the_sources() -> None:
    words = ("TO" + "DO", "FIX" + "ME", "Not" + "ImplementedError")
    found = [f"{path.relative_to(ROOT)}: {word}" for path in SOURCES for word in words if word in path.read_text()]
    assert found == []


def test_platform_folder_is_no_package() -> None:
    # With an __init__.py it would hide the standard library's own `platform` from everything started in the root.
    assert not (ROOT / "platform" / "__init__.py").exists()


@pytest.mark.parametrize("pythonpath", ["", str(ROOT), str(ROOT / "platform")])
def test_standard_platform_is_not_shadowed(pythonpath: str) -> None:
    program = "import platform, chatsearch; print(platform.python_version())"
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env={"PYTHONPATH": pythonpath, "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.stdout.strip().startswith("3."), done.stderr
