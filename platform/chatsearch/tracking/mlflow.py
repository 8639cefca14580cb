"""Runs recorded in MLflow, by a background thread that a broken server cannot make the job's problem."""

from __future__ import annotations

import functools
import json
import math
import re
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

from chatsearch.tracking.config import RunKey, TrackingConfig, sqlite_path
from chatsearch.tracking.outbox import Outbox
from chatsearch.tracking.run_writer import Entry, Point, RunWriter
from chatsearch.tracking.tracker import Status

_SQLITE_FLUSH_LIMIT_S = 120.0  # a local file is slow, not dead: its first use creates some eighty tables
_MAX_PARAM_LENGTH = 6000


class MlflowTracker:
    """A :class:`~chatsearch.tracking.tracker.Tracker` on an MLflow server or store."""

    def __init__(self, config: TrackingConfig, run: RunKey) -> None:
        self._uri = config.resolved_uri()
        self._children = config.replace(uri=self._uri, parent=run.key)
        self._every = config.series_every
        self._last_points: dict[str, Point] = {}
        self._finished = False
        local = sqlite_path(self._uri) is not None
        self._flush_limit_s = max(config.flush_limit_s, _SQLITE_FLUSH_LIMIT_S) if local else config.flush_limit_s
        writer = RunWriter(self._uri, config.experiment, run)
        writer.announce()
        self._outbox: Outbox[Entry] = Outbox(
            writer.deliver,
            name=f"The tracking server {without_password(self._uri)}",
            describe=lambda error: without_password(" ".join(str(error).split())[:300]),
        )
        self._outbox.put(RunWriter.touch)

    @property
    def address(self) -> str:
        """Where to look; for a SQLite store the command that shows it."""
        path = sqlite_path(self._uri)
        if path is None:
            return without_password(self._uri)
        return f"mlflow ui --backend-store-uri sqlite:///{path}"

    @property
    def children(self) -> TrackingConfig:
        """See :class:`~chatsearch.tracking.tracker.Tracker`."""
        return self._children

    def log_params(self, params: Mapping[str, Any]) -> None:
        """See :class:`~chatsearch.tracking.tracker.Tracker`."""
        texts = {stored_name(key): without_password(_text(value)) for key, value in params.items()}
        self._outbox.put(lambda writer: writer.params(texts))

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """See :class:`~chatsearch.tracking.tracker.Tracker`. ``R@1`` is stored as ``R_at_1``: MLflow takes no ``@``."""
        now_ms = int(time.time() * 1000)
        for name, value in metrics.items():
            point = Point(stored_name(name), float(value), step or 0, now_ms)
            if step is not None and step % self._every:
                self._last_points[point.key] = point
                continue
            self._last_points.pop(point.key, None)
            self._outbox.put(point)

    def log_input(self, name: str, uri: str, fingerprint: str) -> None:
        """See :class:`~chatsearch.tracking.tracker.Tracker`. Stored as an MLflow dataset and as a tag."""
        self._outbox.put(lambda writer: writer.input(name, without_password(uri), fingerprint))

    def log_output(self, name: str, uri: str, fingerprint: str) -> None:
        """See :class:`~chatsearch.tracking.tracker.Tracker`. Stored as tags."""
        tags = {f"output.{name}": without_password(uri), f"output.{name}.fingerprint": fingerprint}
        self._outbox.put(lambda writer: writer.tags(tags))

    def log_artefact(self, name: str, value: Mapping[str, Any]) -> None:
        """See :class:`~chatsearch.tracking.tracker.Tracker`."""
        frozen = json.loads(json.dumps(value, default=str, skipkeys=True))  # later changes by the caller must not show
        self._outbox.put(lambda writer: writer.artefact(name, frozen))

    def set_tag(self, key: str, value: str) -> None:
        """See :class:`~chatsearch.tracking.tracker.Tracker`."""
        self._outbox.put(lambda writer: writer.tags({stored_name(key): without_password(value)}))

    def register_model(
        self, name: str, uri: str, fingerprint: str, *, alias: str, metrics: Mapping[str, float] | None = None
    ) -> None:
        """See :class:`~chatsearch.tracking.tracker.Tracker`. The same URI and fingerprint is one version, ever."""
        values = {stored_name(key): float(value) for key, value in (metrics or {}).items()}
        self._outbox.put(lambda writer: writer.model(name, without_password(uri), fingerprint, alias, values))

    def finish(self, status: Status = "FINISHED") -> None:
        """See :class:`~chatsearch.tracking.tracker.Tracker`."""
        if self._finished:
            return
        self._finished = True
        for point in self._last_points.values():
            self._outbox.put(point)
        self._outbox.put(lambda writer: writer.end(status))
        self._outbox.close(self._flush_limit_s)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is None:
            self.finish()
        else:
            self.finish("KILLED" if issubclass(kind, (KeyboardInterrupt, SystemExit)) else "FAILED")


def without_password(text: str) -> str:
    """The same text with ``user:password@`` of every URL in it hidden."""
    return re.sub(r"(://)[^/@\s]+@", r"\1***@", text)


@functools.lru_cache(maxsize=4096)
def stored_name(key: str) -> str:
    """A name that MLflow accepts: letters, digits, ``_ - . / : space``."""
    return re.sub(r"[^\w\-./: ]", "_", key.replace("@", "_at_"))[:250]


def _text(value: Any) -> str:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return (value if isinstance(value, str) else json.dumps(value, default=str))[:_MAX_PARAM_LENGTH]
