"""The interaction protocol on methods of which it is known what they look at."""

from dataclasses import dataclass

import numpy as np
import pytest
from chatsearch.errors import InputError
from chatsearch.evaluate.interaction import InteractionEvaluation, dialogues_of
from chatsearch.types import Document, Kind, Role, Segment

PICTURES = [f"picture-{number}" for number in range(40)]


class OneHot:
    """Stored features: one direction a picture."""

    def matrix(self, hashes, *, what=""):
        return np.eye(len(PICTURES), dtype=np.float32)[[PICTURES.index(h) for h in hashes]]


@dataclass(frozen=True)
class Looks:
    """Searches near the picture that stands so many places behind the last one of the context, as far as it looks."""

    at_pick: bool
    at_words: bool
    name: str = "known"

    def applies_to(self, sub_task):
        return True

    def queries(self, queries):
        return np.stack([self._query(query) for query in queries])

    def _query(self, query):
        last = PICTURES.index(query.images[-1]) if self.at_pick and query.images else 0
        step = len(query.text) if self.at_words else 0
        places = (last + step + np.arange(len(PICTURES))) % len(PICTURES)
        near = np.empty(len(PICTURES), np.float32)
        near[places] = 1.0 / (1.0 + np.arange(len(PICTURES)))
        return near / np.linalg.norm(near)

    def gallery(self, features_ND):
        return features_ND


def dialogue(number, pick, words, target):
    user, answer = {"role": Role.USER}, {"role": Role.ASSISTANT}
    segments = (
        Segment("find one", **user),
        Segment(image=PICTURES[pick], **answer),
        Segment(words, **user),
        Segment(image=PICTURES[target], **answer),
    )
    return Document(f"m-{number}", Kind.M, segments)


def measure(method):
    # The target stands where a method that looks at all of the context searches.
    words = ["a" * (number + 1) for number in range(6)]
    documents = [dialogue(n, 3 * n, w, (3 * n + len("find one ") + len(w)) % 40) for n, w in enumerate(words)]
    return InteractionEvaluation(dialogues_of(documents), PICTURES, OneHot()).measure(method)


def test_one_that_follows_pick_and_words_answers_otherwise_when_they_change():
    result = measure(Looks(at_pick=True, at_words=True))
    assert result["unchanged"] == {"R@1": 100.0, "R@5": 100.0, "R@10": 100.0, "median_rank": 1.0}
    for change in ("other pick", "other words"):
        assert (result[change]["worse"], result[change]["same_first"], result[change]["R@1"]) == (100.0, 0.0, 0.0)
        assert result[change]["shared"] < 100.0


@pytest.mark.parametrize(
    ("method", "blind"),
    [(Looks(at_pick=False, at_words=True), "other pick"), (Looks(at_pick=True, at_words=False), "other words")],
)
def test_one_that_looks_away_is_found_out(method, blind):
    result = measure(method)
    assert result[blind] == {**result["unchanged"], "worse": 0.0, "same_first": 100.0, "shared": 100.0}
    seen = ({"other pick", "other words"} - {blind}).pop()
    assert result[seen]["shared"] < 100.0


def test_the_other_pick_is_the_best_candidate_that_was_not_picked():
    asked = []

    class Listening(Looks):
        def queries(self, queries):
            asked.append([query.images for query in queries])
            return super().queries(queries)

    measure(Listening(at_pick=True, at_words=True))
    openings, kept, picks, words = asked
    assert set(openings) == {()}
    assert kept == words == [(PICTURES[3 * number],) for number in range(6)]
    # Openings search at 0 + len("find one") = 8, which no dialogue has picked; it is the target of none.
    assert picks == [(PICTURES[8],)] * 6


def test_dialogues_without_a_pick_or_without_other_words_are_refused():
    texts = Document("t", Kind.T, dialogue(0, 1, "more", 2).segments)
    with pytest.raises(InputError, match="hold 0 m dialogues"):
        dialogues_of([texts])
    with pytest.raises(InputError, match="hold 2 m dialogues"):
        dialogues_of([dialogue(0, 1, "more", 2), dialogue(1, 3, "more", 4)])
    first, _ = dialogues_of([dialogue(0, 1, "more", 2), dialogue(1, 3, "less", 4)])
    assert [segment.text or segment.image for segment in first.opening] == ["find one"]
    assert first.with_pick("other").images == ("other",)
    assert first.with_pick("other").text == first.query.text
