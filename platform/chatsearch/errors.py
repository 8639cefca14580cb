"""Every error this package raises on purpose.

    ChatSearchError
    |-- ConfigError                 a value or key the user set is wrong
    |   |-- UnknownNameError        no such key, recipe or job; offers the nearest
    |   |-- MemoryBudgetError       a run that cannot fit into the memory it is given
    |   |-- DiskBudgetError         a run that cannot fit onto the disk it is given
    |   |-- PlanBudgetError         a gallery that no index can serve within what is asked
    |-- InputError                  the user's data or request is wrong
    |   |-- MissingInputError       a folder, file or picture is not there
    |   |-- BadImageError           not a picture we accept
    |   |-- GalleryError            no items, or item ids that repeat or collide
    |   |-- TooManyRejectedError    more bad records than the job allows
    |   |-- UnsupportedRequestError a dialogue that cannot be answered as it stands
    |   |-- LimitExceededError      a request larger than the service or the model takes
    |-- ArtefactError               something on disk or in a bucket is not what it should be
    |   |-- IncompleteArtefactError no manifest: the job that makes it has not finished
    |   |-- CorruptArtefactError    checksum or schema does not hold
    |   |-- FingerprintMismatchError two artefacts that do not belong together
    |   |-- ConflictingOutputError  the output already holds something else
    |-- StorageError                the file system or object store failed
    |   |-- UnreachableStoreError   the object store has not answered for as long as the job waits
    |-- WriterConflictError         a gallery has another writer
    |-- TrainingError               a run that must not go on
    |   |-- NonFiniteLossError
    |-- ClusterError                the cluster cannot give or do what was asked
    |-- OverloadedError             come back later; nothing was started

A message holds the value, the limit and what to do. Errors cross process borders, so each of them is
rebuilt from its message alone.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class ChatSearchError(Exception):
    """Root of all errors raised on purpose. The message is never empty."""

    def __init__(self, message: str) -> None:
        assert message, "an error must say something"
        super().__init__(message)


class ConfigError(ChatSearchError):
    """A configuration value is wrong."""


class UnknownNameError(ConfigError):
    """A key, recipe or job that does not exist."""

    @classmethod
    def among(cls, what: str, name: str, known: Iterable[str]) -> UnknownNameError:
        """Build the message from the names that do exist, nearest first."""
        return cls(unknown_name(what, name, known))


class MemoryBudgetError(ConfigError):
    """A run whose weights, gradients and optimiser, or whose largest micro-batch, do not fit into the memory it is given."""


class DiskBudgetError(ConfigError):
    """A run whose checkpoints and bundle are larger than the room on the disk they go to."""


class PlanBudgetError(ConfigError):
    """No index and no machines keep all budgets of a plan."""


class InputError(ChatSearchError):
    """Data or a request that cannot be used as it is."""


class MissingInputError(InputError):
    """A folder, file or picture that should be there is not."""


class BadImageError(InputError):
    """Bytes that are not a picture within the accepted limits."""


class GalleryError(InputError):
    """A gallery that cannot be searched: it has no items, or its item ids repeat or collide."""


class TooManyRejectedError(InputError):
    """More records were set aside than the job allows."""


class UnsupportedRequestError(InputError):
    """A dialogue or request that cannot be answered as it stands."""


class LimitExceededError(InputError):
    """A request larger than the service or the model takes."""


class ArtefactError(ChatSearchError):
    """An artefact is not what it should be."""


class IncompleteArtefactError(ArtefactError):
    """There is no manifest: what makes this artefact has not finished."""


class CorruptArtefactError(ArtefactError):
    """A checksum, a count or a schema does not hold."""


class FingerprintMismatchError(ArtefactError):
    """Two artefacts that were not made for each other."""


class ConflictingOutputError(ArtefactError):
    """The output folder already holds something made in another way."""


class StorageError(ChatSearchError):
    """The file system or object store failed."""


class UnreachableStoreError(StorageError):
    """The object store has not answered for as long as a job waits for it."""


class WriterConflictError(ChatSearchError):
    """A gallery has one writer at a time, and this is not it, or not any more."""


class TrainingError(ChatSearchError):
    """A training run that must not go on."""


class NonFiniteLossError(TrainingError):
    """The loss is NaN or infinite; raised before the optimizer step."""


class ClusterError(ChatSearchError):
    """The cluster cannot give or do what was asked."""


class OverloadedError(ChatSearchError):
    """The service is full; the caller should come back later."""


REFUSED = (ConfigError, InputError, ArtefactError)
"""What a command was given cannot be used: it ends with 2, and the same again would. After other errors the same may go through."""


def unknown_name(what: str, name: str, known: Iterable[str]) -> str:
    """Message on a name that does not exist, from those that do, nearest first."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    # "zero_stage" is what somebody means who writes "stage": the last part of a dotted key counts too.
    near += [n for n in names if n.rsplit(".", 1)[-1] == name.rsplit(".", 1)[-1] and n not in near][:3]
    offer = f"Did you mean {' or '.join(repr(n) for n in near)}?" if near else ""
    listing = f"Known: {', '.join(names) or 'none'}." if len(names) <= 40 or not near else ""
    return " ".join(part for part in (f"Unknown {what} {name!r}.", offer, listing) if part)


def named_cause(error: BaseException) -> ChatSearchError | None:
    """The error of ours that an engine's error wraps, or None: Ray hands a worker's exception back inside its own."""
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        cause: BaseException | None = getattr(current, "cause", None)
        # Ray's stand-in is of a class made up on the way and has a trace for a message: the original is inside it.
        if isinstance(current, ChatSearchError) and not isinstance(cause, ChatSearchError):
            return current
        current = cause or current.__cause__ or current.__context__
    return None
