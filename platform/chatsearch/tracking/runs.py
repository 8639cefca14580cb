"""Runs read back: what they recorded about themselves, and nothing that would have to be unpickled or opened."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from chatsearch.errors import MissingInputError, StorageError
from chatsearch.tracking.config import TrackingConfig, sqlite_path
from chatsearch.tracking.mlflow import without_password
from chatsearch.tracking.run_writer import KEY_TAG, PARENT_TAG, connect

_PAGE = 1000


@dataclass(frozen=True)
class RecordedRun:
    """One run of a store.

    Attributes:
        id: the store's name of it.
        parent: id of the run that it is filed under; empty for a run of its own.
        key: which output it made, as in :class:`~chatsearch.tracking.config.RunKey`.
        status: ``RUNNING``, ``FINISHED``, ``FAILED`` or ``KILLED``; a process that is killed outright leaves ``RUNNING``.
        begin_ms: when it began first, in milliseconds since 1970.
        end_ms: when it ended last; None while it has not.
        params: texts, as recorded: anything but a string is JSON.
        metrics: the last value of each, under its :func:`~chatsearch.tracking.mlflow.stored_name`.
        tags: MLflow's own among them.
    """

    id: str
    parent: str
    key: str
    status: str
    begin_ms: int
    end_ms: int | None
    params: Mapping[str, str] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)


def check_store(config: TrackingConfig) -> None:
    """Check that there is a store to read, where that can be told without MLflow, which would make an empty one.

    Raises:
        MissingInputError: there is no such SQLite file.
    """
    path = sqlite_path(config.resolved_uri())
    if path is not None and not path.is_file():
        raise MissingInputError(
            f"No run is recorded at {path}: there is no such file. Name the store with MLFLOW_TRACKING_URI, as the jobs that "
            "recorded their runs were told."
        )


def read_runs(config: TrackingConfig, key_prefix: str) -> list[RecordedRun]:
    """All runs of the experiment whose key begins so, oldest first, by one query (a page of it for every 1,000 runs).

    Raises:
        MissingInputError: there is no store, or no such experiment in it.
        StorageError: the store cannot be read.
    """
    check_store(config)
    uri = config.resolved_uri()
    try:
        client = connect(uri)
        experiment = client.get_experiment_by_name(config.experiment)
        found: list[Any] = []
        token: str | None = None
        while experiment is not None:
            page = client.search_runs(
                [experiment.experiment_id],
                f"tags.`{KEY_TAG}` LIKE '{key_prefix}%'",
                max_results=_PAGE,
                order_by=["attributes.start_time ASC"],
                page_token=token,
            )
            found += page
            token = page.token
            if not token:
                break
    except Exception as error:  # whatever a tracking client raises, it could not read
        raise StorageError(
            f"The runs at {without_password(uri)} cannot be read: {without_password(' '.join(str(error).split())[:300])}"
        ) from error
    if experiment is None:
        raise MissingInputError(f"{without_password(uri)} holds no experiment {config.experiment!r}.")
    return [_recorded(run) for run in found]


def _recorded(run: Any) -> RecordedRun:
    tags = dict(run.data.tags)
    return RecordedRun(
        id=run.info.run_id,
        parent=tags.get(PARENT_TAG, ""),
        key=tags[KEY_TAG],
        status=run.info.status,
        begin_ms=run.info.start_time,
        end_ms=run.info.end_time,
        params=dict(run.data.params),
        metrics=dict(run.data.metrics),
        tags=tags,
    )
