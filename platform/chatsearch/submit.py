"""Send a job to a Ray cluster, follow its log to the end and say how it ended."""

from __future__ import annotations

import asyncio
import logging
import os
import shlex
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from chatsearch.errors import ClusterError

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

SHIPPED = ("jobs", "serve", "platform")
"""What of the repository travels to the cluster as the job's working directory."""
POLL_S = 0.5


@dataclass(frozen=True)
class Submission:
    """A job to run on a cluster.

    Attributes:
        name: job name, a module of ``jobs``.
        arguments: its command line.
        submission_id: the same id is never run twice at a time.
        root: the repository root, whose code travels along as working directory.
        environment: variables for the job. They show in Ray's dashboard: no secrets.
    """

    name: str
    arguments: Sequence[str]
    submission_id: str
    root: Path
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def entrypoint(self) -> str:
        """The command that the cluster runs in the working directory."""
        return shlex.join(["python", "-m", f"jobs.{self.name}", *self.arguments])


def connect(address: str) -> JobSubmissionClient:
    """A client of the cluster's job server.

    Raises:
        ClusterError: nobody answers there, or the token is missing or wrong.
    """
    if has_token():
        os.environ.setdefault("RAY_AUTH_MODE", "token")
    from ray.exceptions import RayError
    from ray.job_submission import JobSubmissionClient

    for name in ("ray._private.runtime_env", "ray.dashboard.modules"):  # their account of every file and socket
        logging.getLogger(name).setLevel(logging.WARNING)
        for child in [c for c in logging.root.manager.loggerDict if c.startswith(f"{name}.")]:
            logging.getLogger(child).setLevel(logging.WARNING)
    try:
        return JobSubmissionClient(address)
    except (RayError, ConnectionError, RuntimeError, ValueError) as error:
        raise ClusterError(
            f"Cannot reach a Ray job server at {address}: {_short(error)} Check --address (the dashboard, usually port 8265) and "
            "that RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH holds the cluster's token."
        ) from error


def has_token() -> bool:
    """Whether this machine knows a cluster token."""
    known = os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH")
    return bool(known) or (Path.home() / ".ray" / "auth_token").is_file()


def submit(client: JobSubmissionClient, submission: Submission, out: TextIO = sys.stdout) -> int:
    """Run a job, copy its log to ``out`` while it works, and return its exit code.

    A job with this id that is running or has succeeded is followed instead of started again; one that
    failed or was stopped is replaced, and continues what it had begun.

    Raises:
        ClusterError: the cluster refuses the job, or is lost on the way.
    """
    from ray.exceptions import RayError
    from ray.job_submission import JobStatus

    submission_id = submission.submission_id
    try:
        known = {job.submission_id: job.status for job in client.list_jobs()}
        status = known.get(submission_id)
        if status in (JobStatus.FAILED, JobStatus.STOPPED):
            client.delete_job(submission_id)
            status = None
        if status is None:
            _start(client, submission)
            print(f"Submitted {submission_id}: {submission.entrypoint}", file=out, flush=True)
        else:
            print(
                f"{submission_id} is {status.value} on this cluster: following it. Run it afresh with --fresh.",
                file=out,
                flush=True,
            )
        return asyncio.run(_follow(client, submission_id, out))
    except (RayError, ConnectionError, RuntimeError, OSError) as error:
        raise ClusterError(f"The cluster failed while running {submission_id}: {_short(error)}") from error


def _start(client: JobSubmissionClient, submission: Submission) -> None:
    # Ray reads the files twice, for the package's name and for its content: a copy cannot change in between.
    with tempfile.TemporaryDirectory(prefix="chatsearch-submit-") as folder:
        for part in SHIPPED:
            ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
            shutil.copytree(submission.root / part, Path(folder) / part, ignore=ignored)
        client.submit_job(
            entrypoint=submission.entrypoint,
            submission_id=submission.submission_id,
            runtime_env={
                "working_dir": folder,
                "py_modules": [str(Path(folder) / "platform" / "chatsearch")],
                # A job that is stopped ends its run first; Ray's own patience is three seconds.
                "env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": "60", **submission.environment},
            },
            metadata={"chatsearch_job": submission.name},
        )


async def _follow(client: JobSubmissionClient, submission_id: str, out: TextIO) -> int:
    from ray.job_submission import JobStatus

    while client.get_job_status(submission_id) == JobStatus.PENDING:
        await asyncio.sleep(POLL_S)
    async for lines in client.tail_job_logs(submission_id):
        out.write(lines)
        out.flush()
    # The log can end a moment before the status says so.
    while not (status := client.get_job_status(submission_id)).is_terminal():
        await asyncio.sleep(POLL_S)
    info = client.get_job_info(submission_id)
    print(f"{submission_id} {status.value}", file=out, flush=True)
    if status == JobStatus.SUCCEEDED:
        return 0
    if info.driver_exit_code is None and info.message:
        print(info.message, file=out, flush=True)
    return info.driver_exit_code or 1


def _short(error: BaseException) -> str:
    return " ".join(str(error).split())[:400]
