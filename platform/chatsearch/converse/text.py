"""Text of an answer, piece by piece, in whole characters."""

from __future__ import annotations

from chatsearch.data.tokenizer import ChatTokenizer

_REPLACEMENT = "�"


class TextStream:
    """Turns tokens into text deltas.

    Byte-level tokens may end in the middle of a UTF-8 sequence, which decodes to U+FFFD. Such an end is held back until the
    character is complete, or until the answer ends and it never will be. The deltas joined are the decoded text
    without the space that the template puts before an answer.
    """

    def __init__(self, tokenizer: ChatTokenizer) -> None:
        self._tokenizer = tokenizer
        self._tokens: list[int] = []
        self._num_sent = 0

    def push(self, token: int) -> str:
        """The text that this token completes; often a few characters, sometimes none."""
        self._tokens.append(token)
        return self._send(self._text().rstrip(_REPLACEMENT))

    def finish(self) -> str:
        """What was still held back."""
        return self._send(self._text())

    def _text(self) -> str:
        # Decoded as a whole each time: what one token spells can depend on the one before it.
        return self._tokenizer.decode(self._tokens).removeprefix(" ")

    def _send(self, text: str) -> str:
        delta = text[self._num_sent :]
        self._num_sent = max(self._num_sent, len(text))
        return delta
