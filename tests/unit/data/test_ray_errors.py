from __future__ import annotations

from chatsearch.data.ray_errors import original_error
from chatsearch.errors import MissingInputError


class WrappedError(MissingInputError):
    """As Ray makes them: an instance of our class whose message is a trace and whose cause is the original."""

    def __init__(self, cause: Exception) -> None:
        super().__init__("Traceback ...")
        self.cause = cause


def test_the_original_is_found_in_any_wrapping() -> None:
    original = MissingInputError("no picture")
    assert original_error(original) is original
    assert original_error(WrappedError(original)) is original
    outer = RuntimeError("task failed")
    outer.__cause__ = WrappedError(original)
    assert original_error(outer) is original
    plain = ValueError("bug")
    assert original_error(plain) is plain
