"""One run in MLflow: every call that is made to it, from the one thread that makes them.

MLflow is imported by that thread only: the import takes seconds, and creating the tables of a fresh
SQLite store some more. Weights are never uploaded: models stay where they lie, and MLflow holds an
external model, a registry entry and an alias that name their URI and fingerprint.
"""

from __future__ import annotations

import json
import logging
import os
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from chatsearch.tracking.config import RunKey, sqlite_path
from chatsearch.tracking.outbox import UnreachableError
from chatsearch.tracking.tracker import Status

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

KEY_TAG = "chatsearch.key"
URI_TAG = "chatsearch.uri"
FINGERPRINT_TAG = "chatsearch.fingerprint"
MODEL_TAG = "chatsearch.model_id"
PARENT_TAG = "mlflow.parentRunId"

_SHORT_HTTP = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "5", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1"}
_QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "GIT_PYTHON_REFRESH": "quiet",
}
_REFUSALS = frozenset({"INVALID_PARAMETER_VALUE", "BAD_REQUEST", "RESOURCE_ALREADY_EXISTS", "RESOURCE_DOES_NOT_EXIST"})

_first_tries: dict[tuple[str, str], threading.Event] = {}
"""By store and key, for the runs of this process: whether the first try to begin it is over."""


@dataclass(frozen=True, slots=True)
class Point:
    """A value of a series of metrics."""

    key: str
    value: float
    step: int
    time_ms: int


Entry = Point | Callable[["RunWriter"], None]
"""What a run is told: a metric, or a call."""


class RunWriter:
    """The calls to MLflow for one run. Used by one thread only; connects at the first call."""

    def __init__(self, uri: str, experiment: str, run: RunKey) -> None:
        self._uri = uri
        self._experiment = experiment
        self._run = run
        self._client: MlflowClient | None = None
        self._experiment_id = ""
        self._run_id = ""
        self._tried = threading.Event()
        """Set once the run has begun, or the first try to begin it has failed."""

    def announce(self) -> None:
        """Say that this process begins the run: its children wait for the first try instead of making their parent up."""
        _first_tries[self._uri, self._run.key] = self._tried

    def deliver(self, batch: Sequence[Entry]) -> int:
        """Record the first entries of a batch: a run of metric points together, anything else alone.

        Raises:
            UnreachableError: nothing was recorded; try again later.
        """
        try:
            self._connect()
        except Exception as error:  # no store, no run: nothing can be recorded now, whatever the reason
            self._client = None
            raise UnreachableError(str(error)) from error
        entry = batch[0]
        points: list[Point] = []
        for item in batch:
            if not isinstance(item, Point):
                break
            points.append(item)
        try:
            if isinstance(entry, Point):
                self._points(points)
                return len(points)
            entry(self)
            return 1
        except Exception as error:
            if _is_refusal(error):
                raise
            raise UnreachableError(str(error)) from error

    def touch(self) -> None:
        """Connecting has begun the run already."""

    def params(self, params: Mapping[str, str]) -> None:
        """Params are written once; where a continued run has another value, the new one becomes a tag."""
        from mlflow.entities import Param, RunTag

        held = self._mlflow.get_run(self._run_id).data.params
        new = [Param(key, value) for key, value in params.items() if key not in held]
        changed = [RunTag(f"changed.{k}", v) for k, v in params.items() if k in held and held[k] != v]
        for start in range(0, len(new), 100):
            self._mlflow.log_batch(self._run_id, params=new[start : start + 100])
        for start in range(0, len(changed), 100):
            self._mlflow.log_batch(self._run_id, tags=changed[start : start + 100])

    def tags(self, tags: Mapping[str, str]) -> None:
        """Set tags; an old value is replaced."""
        from mlflow.entities import RunTag

        self._mlflow.log_batch(self._run_id, tags=[RunTag(key, value) for key, value in tags.items()])

    def input(self, name: str, uri: str, fingerprint: str) -> None:
        """A dataset of the run: its digest is the fingerprint, its source the URI."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        kind = "s3" if uri.startswith("s3://") else "local"
        dataset = Dataset(name=name, digest=fingerprint, source_type=kind, source=json.dumps({"uri": uri}))
        self._mlflow.log_inputs(self._run_id, [DatasetInput(dataset, [InputTag("mlflow.data.context", name)])])
        self.tags({f"input.{name}": uri, f"input.{name}.fingerprint": fingerprint})

    def artefact(self, name: str, value: Mapping[str, Any]) -> None:
        """A JSON document among the run's artefacts."""
        self._mlflow.log_dict(self._run_id, dict(value), name)

    def model(self, name: str, uri: str, fingerprint: str, alias: str, metrics: Mapping[str, float]) -> None:
        """External model, registry version and alias."""
        client = self._mlflow
        from mlflow.exceptions import MlflowException

        try:
            client.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        version = None
        for known in client.search_model_versions(f"name = '{name}'"):
            if known.tags.get(FINGERPRINT_TAG) == fingerprint and known.tags.get(URI_TAG) == uri:
                version = known.version
        if version is None:
            model_id, location = self._external_model(name, uri, fingerprint)
            tags = {URI_TAG: uri, FINGERPRINT_TAG: fingerprint, MODEL_TAG: model_id}
            # The source must be a place that MLflow manages; the weights are where the tag says.
            made = client.create_model_version(
                name,
                source=location,
                run_id=self._run_id,
                model_id=model_id,
                tags=tags,
                description=f"Bundle at {uri}",
                await_creation_for=0,
            )
            version = made.version
            for key, value in metrics.items():
                client.log_metric(self._run_id, key, value, model_id=model_id)
        client.set_registered_model_alias(name, alias, str(version))
        self.tags({"registered_model": f"models:/{name}@{alias}", "registered_version": str(version)})

    def end(self, status: Status) -> None:
        """End the run. Its parent is ended by the process that runs it."""
        self._mlflow.set_terminated(self._run_id, status)

    @property
    def _mlflow(self) -> MlflowClient:
        assert self._client is not None, "deliver() connects first"
        return self._client

    def _points(self, points: Sequence[Point]) -> None:
        from mlflow.entities import Metric

        metrics = [Metric(p.key, p.value, p.time_ms, p.step) for p in points]
        self._mlflow.log_batch(self._run_id, metrics=metrics)

    def _external_model(self, name: str, uri: str, fingerprint: str) -> tuple[str, str]:
        """A model whose weights lie outside; returns its id and the place of its description."""
        from mlflow.models.utils import get_external_mlflow_model_spec

        client = self._mlflow
        model = client.create_logged_model(
            self._experiment_id,
            name=name,
            source_run_id=self._run_id,
            model_type="chatsearch",
            tags={"mlflow.model.isExternal": "true", URI_TAG: uri, FINGERPRINT_TAG: fingerprint},
        )
        with tempfile.TemporaryDirectory() as scratch:
            get_external_mlflow_model_spec(model).save(os.path.join(scratch, "MLmodel"))
            client.log_model_artifacts(model.model_id, scratch)
        client.finalize_logged_model(model.model_id, "READY")
        return model.model_id, model.artifact_location

    def _connect(self) -> None:
        if self._client is not None:
            return
        try:
            client = connect(self._uri)
            self._experiment_id = _experiment_id(client, self._experiment, self._uri)
            parent_id = self._find_or_make_parent(client, self._run.parent) if self._run.parent else None
            self._run_id = self._find_or_begin(client, parent_id)
            self._client = client
        finally:
            self._tried.set()

    def _find_or_begin(self, client: MlflowClient, parent_id: str | None) -> str:
        """The newest run with this key, running again; or a new one."""
        found = self._find(client, self._run.key)
        if found is None:
            tags = {PARENT_TAG: parent_id} if parent_id else {}
            return self._create(client, self._run.key, self._run.job, tags)
        if found.info.status != "RUNNING":
            client.update_run(found.info.run_id, status="RUNNING")
        return found.info.run_id

    def _find_or_make_parent(self, client: MlflowClient, key: str) -> str:
        """The newest run with the parent's key, left as it is; or a new one that is no more than a name for its children."""
        begins_here = _first_tries.get((self._uri, key))
        if begins_here is not None:
            begins_here.wait()  # looking and making are two calls: two threads at it could make two parents
        found = self._find(client, key)
        if found is not None:
            return found.info.run_id
        made = self._create(client, key, key, {})
        client.set_terminated(made, "FINISHED")
        return made

    def _find(self, client: MlflowClient, key: str) -> Run | None:
        found: Sequence[Run] = client.search_runs(
            [self._experiment_id],
            f"tags.`{KEY_TAG}` = '{_quoted(key)}'",
            max_results=1,
            order_by=["attributes.start_time DESC"],
        )
        return found[0] if found else None

    def _create(self, client: MlflowClient, key: str, name: str, tags: Mapping[str, str]) -> str:
        return client.create_run(self._experiment_id, tags={KEY_TAG: _quoted(key), **tags}, run_name=name).info.run_id


def _quoted(key: str) -> str:
    return key.replace("'", "")


def connect(uri: str) -> MlflowClient:
    """A client with short timeouts, quiet and without telemetry. Imports MLflow: seconds."""
    for key, value in {**_SHORT_HTTP, **_QUIET}.items():
        os.environ.setdefault(key, value)
    path = sqlite_path(uri)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
    from mlflow import MlflowClient

    for name in ("mlflow.store.db.utils", "alembic"):  # "Creating initial tables" would tear the progress bar
        logging.getLogger(name).setLevel(logging.WARNING)
    return MlflowClient(tracking_uri=uri, registry_uri=uri)


def _experiment_id(client: MlflowClient, name: str, uri: str) -> str:
    from mlflow.exceptions import MlflowException

    path = sqlite_path(uri)
    # Without a server MLflow would put artefacts into "mlruns" of the current folder.
    location = (path.parent / f"{path.stem}-artefacts").as_uri() if path is not None else None
    held = client.get_experiment_by_name(name)
    if held is None:
        try:
            return client.create_experiment(name, artifact_location=location)
        except MlflowException as error:
            held = client.get_experiment_by_name(name)  # another process was faster
            if held is None:
                raise error
    return held.experiment_id


def _is_refusal(error: Exception) -> bool:
    """Whether trying the same again would fail the same way."""
    from mlflow.exceptions import MlflowException

    return not isinstance(error, MlflowException) or error.error_code in _REFUSALS
