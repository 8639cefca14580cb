"""Who may import what: the layers, the modules named for an engine, and what a plain import must not cost."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HEAVY = ("torch", "ray", "faiss", "mlflow", "transformers", "deepspeed", "fastapi")
LIGHT = sorted(
    ".".join(path.relative_to(ROOT / "platform").with_suffix("").parts)
    for path in (ROOT / "platform" / "chatsearch").rglob("*.py")
    if path.name == "config.py" or path.parent.name == "chatsearch"
) + sorted(f"jobs.recipes.{path.stem}" for path in (ROOT / "jobs" / "recipes").glob("[!_]*.py"))
JOBS = sorted(f"jobs.{path.stem}" for path in (ROOT / "jobs").glob("[!_]*.py"))


def _loaded_by(modules: list[str]) -> dict[str, list[str]]:
    """For each module imported on its own in one fresh interpreter: the heavy packages it brought in first."""
    program = f"""
import importlib, json, sys
found = {{}}
for name in {modules!r}:
    before = set(sys.modules)
    importlib.import_module(name)
    found[name] = sorted({{m.partition(".")[0] for m in set(sys.modules) - before}} & set({HEAVY!r}))
print(json.dumps(found))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_layers_and_engines() -> None:
    # In a process of its own: the linter reconfigures the logging of the one that it runs in.
    program = "from importlinter.cli import lint_imports; raise SystemExit(lint_imports(no_cache=True))"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stdout


def test_packages_configs_recipes_and_jobs_import_nothing_heavy() -> None:
    packages = sorted(
        f"chatsearch.{path.parent.relative_to(ROOT / 'platform' / 'chatsearch')}".replace("/", ".")
        for path in (ROOT / "platform" / "chatsearch").rglob("*/__init__.py")
    )
    found = _loaded_by(["chatsearch", *packages, *LIGHT, *JOBS])
    assert {name: heavy for name, heavy in found.items() if heavy} == {}


def test_what_builds_batches_needs_no_torch() -> None:
    # Each training worker starts a process of it, and torch would be most of what that process does before its first batch.
    for module in ("chatsearch.data.stream", "chatsearch.model.pixels", "chatsearch.train.progress"):
        assert "torch" not in _loaded_by([module])[module]


def test_light_modules_are_what_the_rule_looks_at() -> None:
    assert "chatsearch.model.config" in LIGHT
    assert "chatsearch.config" in LIGHT
    assert _loaded_by(["chatsearch.index.build"])["chatsearch.index.build"] == ["faiss"]
