"""The laptop session: loopback only, a token on it, and workers that find the project."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.ray

PROGRAM = """
import json, os, psutil
from chatsearch.session import ray_session
with ray_session():
    import ray

    @ray.remote
    def where():
        import platform, chatsearch, jobs
        return platform.python_version(), chatsearch.__file__, jobs.__file__

    found = ray.get(where.remote())
    group = {p.pid for p in psutil.Process().children(recursive=True)}
    binds = {c.laddr.ip.removeprefix("::ffff:") for c in psutil.net_connections("tcp") if c.status == "LISTEN" and c.pid in group}
    with ray_session():  # a second user of the session neither starts nor stops anything
        pass
    print(json.dumps({"found": found, "binds": sorted(binds), "alive": ray.is_initialized(), "slots": ray.cluster_resources()["CPU"],
                      "mode": os.environ["RAY_AUTH_MODE"], "token": bool(os.environ["RAY_AUTH_TOKEN"])}))
print(json.dumps({"stopped": not ray.is_initialized()}))
"""


@pytest.fixture
def ray_folder() -> Iterator[Path]:
    """Ray's own folder, which says that `ray start` has begun a cluster on this machine. Short: sockets lie in it."""
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp") as folder:
        Path(folder, "ray").mkdir()
        Path(folder, "ray", "ray_current_cluster").write_text("127.0.0.1:1")
        yield Path(folder)


def test_ray_imported_before_its_settings_is_refused_by_name() -> None:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    program = "import ray; from chatsearch.session import ray_session; ray_session().__enter__()"
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 1
    assert "Ray was imported before its settings" in done.stderr and "prepare_environment()" in done.stderr


def test_local_session(tmp_path: Path, ray_folder: Path) -> None:
    hidden = ("RAY_", "PYTHONPATH")
    environment = {k: v for k, v in os.environ.items() if not k.startswith(hidden)} | {
        "HOME": str(tmp_path),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_TMPDIR": str(ray_folder),
    }
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=180,
    )
    assert done.returncode == 0, done.stderr
    seen, after = (json.loads(line) for line in done.stdout.splitlines()[-2:])
    version, package, jobs = seen["found"]
    assert version.startswith("3.")
    assert Path(package).parent == ROOT / "platform" / "chatsearch"
    assert Path(jobs).parent == ROOT / "jobs"
    assert seen["binds"] == ["127.0.0.1"]
    assert seen["alive"] and after["stopped"]
    assert seen["slots"] >= 6
    assert seen["mode"] == "token" and seen["token"]
    assert not (tmp_path / ".ray").exists(), "a token was left in the home folder"
