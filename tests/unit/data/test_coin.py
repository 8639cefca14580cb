from __future__ import annotations

from collections import Counter

from chatsearch.data.coin import Coin


def test_draws_depend_on_seed_document_epoch_and_purpose() -> None:
    base = Coin(1, "a", 0)
    assert base.draw("x", 1000) == Coin(1, "a", 0).draw("x", 1000)
    others = [Coin(2, "a", 0), Coin(1, "b", 0), Coin(1, "a", 1)]
    draws = {coin.draw("x", 10**9) for coin in (base, *others)} | {base.draw("y", 10**9)}
    assert len(draws) == 5


def test_draws_are_fair() -> None:
    counts = Counter(Coin(0, f"document-{i}", 3).draw("direction", 2) for i in range(4000))
    assert abs(counts[0] - 2000) < 160  # five standard deviations
