"""Our own errors, taken out of what Ray wraps them in when they come from a task."""

from __future__ import annotations

from chatsearch.errors import ChatSearchError


def original_error(error: BaseException) -> BaseException:
    """The first error of ours inside ``error`` as it was raised in the task; any other error as it is."""
    seen: BaseException | None = error
    while seen is not None:
        # Ray's stand-in is an instance of our class too, with the whole trace as its message: the original is its cause.
        inner: BaseException | None = getattr(seen, "cause", None) or seen.__cause__
        if isinstance(seen, ChatSearchError) and not isinstance(inner, ChatSearchError):
            return seen
        seen = inner
    return error
