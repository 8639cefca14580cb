"""Problem documents (RFC 9457): what went wrong, the limit, and what to do.

Every error of :mod:`chatsearch.errors` has one row in ``_KINDS``; anything else is a fault of ours and says so
without telling its insides.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from chatsearch import errors
from pydantic import BaseModel, ConfigDict, Field

MEDIA_TYPE = "application/problem+json"


class Problem(BaseModel):
    """The body of every answer that is not a success."""

    model_config = ConfigDict(frozen=True)
    type: str = Field(description="URN of the kind of problem; stable, made for programs.")
    title: str = Field(description="The kind of problem in words; the same for every occurrence.")
    status: int = Field(description="The HTTP status, repeated.")
    detail: str = Field(description="This occurrence: the value that was refused and why.")
    action: str = Field(description="What to do about it.")
    limit: float | int | None = Field(default=None, description="The limit that was passed, where there is one.")
    trace_id: str = Field(default="", description="The id under which this request is logged.")


class ProblemError(Exception):
    """Raised by request handlers; the application turns it into the problem it carries."""

    def __init__(self, problem: Problem, headers: dict[str, str] | None = None) -> None:
        super().__init__(problem.detail)
        self.problem = problem
        self.headers = headers or {}


_KINDS: dict[type[errors.ChatSearchError], tuple[HTTPStatus, str, str]] = {
    errors.BadImageError: (
        HTTPStatus.UNPROCESSABLE_ENTITY,
        "bad-image",
        "Send a JPEG, PNG or WebP picture within the limits.",
    ),
    errors.MissingInputError: (HTTPStatus.NOT_FOUND, "not-found", "Check the id; it may have been deleted."),
    errors.LimitExceededError: (
        HTTPStatus.UNPROCESSABLE_ENTITY,
        "limit-exceeded",
        "Send less, or begin a new conversation.",
    ),
    errors.UnsupportedRequestError: (
        HTTPStatus.UNPROCESSABLE_ENTITY,
        "unsupported-request",
        "Change the request as the detail says.",
    ),
    errors.InputError: (HTTPStatus.UNPROCESSABLE_ENTITY, "bad-input", "Change the request as the detail says."),
    errors.OverloadedError: (
        HTTPStatus.SERVICE_UNAVAILABLE,
        "overloaded",
        "Wait as Retry-After says and send the request again.",
    ),
    errors.ArtefactError: (
        HTTPStatus.INTERNAL_SERVER_ERROR,
        "bad-artefact",
        "Tell the operator: model and index need attention.",
    ),
    errors.StorageError: (HTTPStatus.SERVICE_UNAVAILABLE, "storage", "Try again; if it stays, tell the operator."),
}
_PRIVATE = {
    errors.ArtefactError: "The model, the index or the gallery is damaged, or they were not made for each other.",
    errors.StorageError: "The conversations or the gallery's files cannot be read or written just now.",
}
"""What is said in place of messages that name paths, buckets and databases; these stay in the log."""


def problem(status: int, slug: str, detail: str, action: str, *, limit: float | None = None) -> Problem:
    """A problem of a kind that is named here."""
    title = slug.replace("-", " ").capitalize()
    return Problem(
        type=f"urn:chatsearch:problem:{slug}",
        title=title,
        status=int(status),
        detail=detail,
        action=action,
        limit=limit,
    )


def too_large(what: str, value: float, limit: float, *, status: int = 422) -> ProblemError:
    """A request with more of something than allowed."""
    detail = f"{what}: {value} given, at most {limit} allowed."
    return ProblemError(
        problem(status, "limit-exceeded", detail, "Send less, or begin a new conversation.", limit=limit)
    )


def refused(slug: str, detail: str, action: str, status: int = 422) -> ProblemError:
    """A request that cannot be served as it stands."""
    return ProblemError(problem(status, slug, detail, action))


def problem_of(error: BaseException) -> Problem:
    """The problem document of any exception. Unknown ones are internal errors; their text stays in the log."""
    if isinstance(error, ProblemError):
        return error.problem
    for kind in type(error).__mro__:
        if kind in _KINDS:
            status, slug, action = _KINDS[kind]
            return problem(status, slug, _PRIVATE.get(kind, str(error)), action)
    return problem(
        500, "internal-error", "Something went wrong in the service.", "Try again; if it stays, report the trace id."
    )


def document(found: Problem, trace_id: str) -> dict[str, Any]:
    """The JSON of a problem, without empty fields."""
    return found.model_copy(update={"trace_id": trace_id}).model_dump(exclude_none=True)
