"""``chatsearch submit`` against a real head node with token authentication."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from chatsearch.manifest import open_artefact
from chatsearch.testing.ray_cluster import RayHead, ray_head
from chatsearch.tracking.run_writer import connect

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.ray

TINY = (
    "corpus.kinds.caption=20",
    "corpus.kinds.interleaved=4",
)


@pytest.fixture(scope="module")
def head() -> Iterator[RayHead]:
    with ray_head() as running:
        yield running


def plain_environment() -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if not k.startswith(("RAY_AUTH", "RAY_ADDRESS"))}


def submit(
    head: RayHead, *arguments: str, environment: dict[str, str] | None = None, root: Path = ROOT
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "chatsearch.cli", "submit", *arguments, "--address", head.dashboard],
        cwd=root,
        env=plain_environment() | (head.environment if environment is None else environment),
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )


def prepare_arguments(output: Path, tmp_path: Path) -> list[str]:
    settings = [*TINY, f"output={output}"]
    tracking = ["--env", f"MLFLOW_TRACKING_URI=sqlite:///{tmp_path / 'mlflow.db'}"]
    return ["prepare", "--recipe", "tiny_align", *(a for s in settings for a in ("--set", s)), *tracking]


def test_job_runs_and_its_log_is_followed_to_the_end(head: RayHead, tmp_path: Path) -> None:
    output = tmp_path / "shards"
    arguments = prepare_arguments(output, tmp_path)
    done = submit(head, *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "plan   prepare --recipe tiny_align" in done.stdout
    assert f"made   {output}" in done.stdout
    assert done.stdout.rstrip().endswith("SUCCEEDED")
    assert open_artefact(str(output), "document-shards").manifest.counts["documents"] == 24
    again = submit(head, *arguments)
    assert again.returncode == 0
    assert "following it" in again.stdout
    assert f"made   {output}" in again.stdout


WHERE = """
from chatsearch.session import ray_session
from jobs.command import Job, Made, main
from jobs.recipes import where as recipes

def work(config, tracker):
    with ray_session():
        import ray

        @ray.remote
        def look():
            import os, platform, chatsearch, jobs, serve
            return {"platform": platform.python_version(), "cwd": os.getcwd(),
                    **{m.__name__: m.__file__ for m in (chatsearch, jobs, serve)}}

        print("seen", __import__("json").dumps(ray.get(look.remote())))
    return Made("", {})

JOB = Job("where", recipes, default="here", kind=None, work=work)
if __name__ == "__main__":
    raise SystemExit(main(JOB))
"""
WHERE_RECIPES = """
from chatsearch.config import Config

def here():
    "Nothing to set."
    return Config()
"""


def test_workers_of_a_submitted_job_run_the_code_that_was_shipped(head: RayHead, tmp_path: Path) -> None:
    checkout = tmp_path / "checkout"
    for part in ("jobs", "serve", "platform"):
        shutil.copytree(ROOT / part, checkout / part, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    (checkout / "jobs" / "where.py").write_text(WHERE)
    (checkout / "jobs" / "recipes" / "where.py").write_text(WHERE_RECIPES)
    done = submit(head, "where", root=checkout)
    assert done.returncode == 0, done.stdout + done.stderr
    seen = json.loads(next(line for line in done.stdout.splitlines() if line.startswith("seen ")).removeprefix("seen "))
    assert seen["platform"].startswith("3.")
    for module in ("chatsearch", "jobs", "serve"):
        assert "runtime_resources" in seen[module], seen


def test_exit_code_of_a_failing_job_comes_back(head: RayHead, tmp_path: Path) -> None:
    settings = (f"path={tmp_path / 'absent'}", "split=train")
    corpus = '{"type": "captioned_folder", ' + ", ".join('"{}": "{}"'.format(*s.split("=")) for s in settings) + "}"
    done = submit(head, "prepare", "--set", f"corpus={corpus}", "--set", f"output={tmp_path / 'out'}")
    assert done.returncode == 2, done.stdout + done.stderr
    assert "is missing or empty" in done.stdout
    assert done.stdout.rstrip().endswith("FAILED")
    assert not (tmp_path / "out").exists()


def test_a_job_that_is_stopped_ends_its_run(head: RayHead, tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    job = ["weights", "--recipe", "tiny", "--set", f"output={tmp_path / 'weights'}"]
    command = [sys.executable, "-m", "chatsearch.cli", "submit", *job, "--env", f"MLFLOW_TRACKING_URI={uri}"]
    environment = plain_environment() | head.environment
    with subprocess.Popen(
        [*command, "--address", head.dashboard], cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True
    ) as followed:
        assert followed.stdout is not None
        try:
            said = []
            for line in followed.stdout:
                said.append(line)
                if line.startswith("vision epoch 1"):
                    break
            submission_id = said[0].removeprefix("Submitted ").partition(":")[0]
            stop = [
                sys.executable,
                "-m",
                "ray.scripts.scripts",
                "job",
                "stop",
                submission_id,
                "--address",
                head.dashboard,
            ]
            subprocess.run(stop, env=environment, check=True, capture_output=True, timeout=120)
            rest = followed.stdout.read()
            assert followed.wait(60) != 0
        finally:
            followed.kill()
    assert f"{submission_id} STOPPED" in rest, "".join(said) + rest
    assert "Terminated. Run the same command again to continue." in rest
    client = connect(uri)
    found = client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])
    assert [run.info.status for run in found] == ["KILLED"]


def test_without_the_token_nothing_is_answered(head: RayHead, tmp_path: Path) -> None:
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(f"{head.dashboard}/api/jobs/", timeout=10)
    assert refused.value.code == 401
    wrong = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64}
    done = submit(head, *prepare_arguments(tmp_path / "out", tmp_path), environment=wrong)
    assert done.returncode == 1
    assert "RAY_AUTH_TOKEN" in done.stderr
    assert "Traceback" not in done.stderr


def test_nobody_at_the_address(tmp_path: Path) -> None:
    nobody = RayHead("http://127.0.0.1:9", "", "0" * 64)
    done = submit(nobody, *prepare_arguments(tmp_path / "out", tmp_path))
    assert done.returncode == 1
    assert "Cannot reach a Ray job server at http://127.0.0.1:9" in done.stderr
