"""What a job may record about itself, and the recorder that records nothing."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Any, Literal, Protocol, Self

from chatsearch.tracking.config import RunKey, TrackingConfig

Status = Literal["FINISHED", "FAILED", "KILLED"]


class Tracker(Protocol):
    """One run. Every call returns at once and none of them raises: recording never stops or slows a job.

    As a context manager it finishes the run: as failed where an exception passes through, as killed where the process is told to end.
    """

    @property
    def address(self) -> str:
        """What to tell the user about where the run is recorded; holds no password."""
        ...

    @property
    def children(self) -> TrackingConfig:
        """How runs that are parts of this one are recorded: in the same place, under this one."""
        ...

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Record the configuration, as dotted keys (see ``chatsearch.config.flatten``)."""
        ...

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Record numbers: a point of a series at ``step``, or without one a summary."""
        ...

    def log_input(self, name: str, uri: str, fingerprint: str) -> None:
        """Record an artefact that this run reads."""
        ...

    def log_output(self, name: str, uri: str, fingerprint: str) -> None:
        """Record an artefact that this run made."""
        ...

    def log_artefact(self, name: str, value: Mapping[str, Any]) -> None:
        """Store a small JSON document with the run, under ``name`` (``"report.json"``)."""
        ...

    def set_tag(self, key: str, value: str) -> None:
        """Mark the run."""
        ...

    def register_model(
        self, name: str, uri: str, fingerprint: str, *, alias: str, metrics: Mapping[str, float] | None = None
    ) -> None:
        """Enter a model that lies at ``uri`` into the registry, and let ``alias`` point at it."""
        ...

    def finish(self, status: Status = "FINISHED") -> None:
        """End the run and wait, for a limited time, until everything is recorded. A second call does nothing."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None: ...


class NullTracker:
    """Records nothing."""

    address = "not recorded (tracking.enabled=false)"
    children = TrackingConfig(enabled=False)

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Nothing."""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Nothing."""

    def log_input(self, name: str, uri: str, fingerprint: str) -> None:
        """Nothing."""

    def log_output(self, name: str, uri: str, fingerprint: str) -> None:
        """Nothing."""

    def log_artefact(self, name: str, value: Mapping[str, Any]) -> None:
        """Nothing."""

    def set_tag(self, key: str, value: str) -> None:
        """Nothing."""

    def register_model(
        self, name: str, uri: str, fingerprint: str, *, alias: str, metrics: Mapping[str, float] | None = None
    ) -> None:
        """Nothing."""

    def finish(self, status: Status = "FINISHED") -> None:
        """Nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        return None


def open_tracker(config: TrackingConfig, run: RunKey) -> Tracker:
    """The recorder of a run, which it continues or begins."""
    if not config.enabled:
        return NullTracker()
    from chatsearch.tracking.mlflow import MlflowTracker

    return MlflowTracker(config, run)
