"""Where and how runs are recorded."""

from __future__ import annotations

import os
from pathlib import Path

from pydantic import Field

from chatsearch.config import Config, runtime
from chatsearch.storage import resolve


class TrackingConfig(Config):
    """Recording of runs in MLflow. Nothing here changes what a job makes, so nothing of it enters a fingerprint."""

    enabled: bool = runtime(True)
    uri: str | None = runtime(None)
    """Tracking server or store. None: the variable ``MLFLOW_TRACKING_URI``, else SQLite in ``runs/mlflow.db``."""
    experiment: str = runtime("chatsearch", min_length=1)
    parent: str | None = runtime(None)
    """Key of the run that this one is filed under; made when it is not there. None: a run of its own."""
    series_every: int = runtime(1, ge=1)
    """Record every n-th step of a series of metrics; the last one always."""
    flush_limit_s: float = runtime(20.0, gt=0)
    """At the end of a job: longest wait for a tracking server to take what is still queued."""

    def resolved_uri(self) -> str:
        """The store to use, never left to the working directory of whoever asks.

        MLflow's own default is a file in the current folder, which is another one in each worker.
        """
        uri = self.uri or os.environ.get("MLFLOW_TRACKING_URI") or sqlite_uri("runs/mlflow.db")
        if "://" not in uri and uri != "databricks":
            return sqlite_uri(uri)
        return uri


def sqlite_uri(path: str | Path) -> str:
    """The MLflow URI of a SQLite file."""
    return f"sqlite:///{resolve(str(path))}"


def sqlite_path(uri: str) -> Path | None:
    """The file behind a SQLite URI, or None for any other store."""
    return Path(uri.removeprefix("sqlite:///")) if uri.startswith("sqlite:///") else None


class RunKey(Config):
    """Which run a process writes to: the same key finds the same run again, after a crash."""

    job: str = Field(min_length=1)
    """Name of the job, shown as the run's name."""
    key: str = Field(min_length=1)
    """Unique to one output: for example the digest of job, output URI and fingerprint."""
    parent: str | None = None
    """Key of the parent run."""
