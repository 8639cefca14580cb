"""A small tokenizer for the data tests, trained once."""

from __future__ import annotations

import pytest
from chatsearch.data.tokenizer import ChatTokenizer, train_byte_bpe

TEXTS = [
    "USER: find a red apple on a wooden table ASSISTANT: here is the red apple",
    "a dog runs on the beach, two cats sleep under a tree",
    "show me the same picture but with a blue car instead of the green one",
]


@pytest.fixture(scope="session")
def tokenizer() -> ChatTokenizer:
    return train_byte_bpe(TEXTS * 4, 400)
