"""The queue between a job and a receiver that may be slow, dead or hostile."""

import logging
import threading
import time

import pytest
from chatsearch.tracking.outbox import Outbox, UnreachableError


class Receiver:
    """Takes everything, unless told to be down, to refuse or to hang."""

    def __init__(self):
        self.taken = []
        self.batches = []
        self.down = False
        self.hang = threading.Event()
        self.hang.set()

    def __call__(self, batch):
        self.hang.wait(30)
        if self.down:
            raise UnreachableError("connection refused")
        if batch[0] == "poison":
            raise ValueError("no such thing")
        wanted = [*batch, "poison"]
        taken = wanted[: wanted.index("poison")]
        self.batches.append(len(taken))
        self.taken += taken
        return len(taken)


def test_everything_arrives_in_order_and_in_batches():
    receiver = Receiver()
    outbox = Outbox(receiver, name="test", linger_s=0.05)
    for number in range(1_000):
        outbox.put(number)
    assert outbox.close(10) == 0
    assert receiver.taken == list(range(1_000))
    assert len(receiver.batches) < 50


def test_a_refused_item_is_dropped_and_the_rest_arrives(caplog):
    receiver = Receiver()
    outbox = Outbox(receiver, name="test", linger_s=0.01)
    for item in ["a", "poison", "b", "poison", "c"]:
        outbox.put(item)
    with caplog.at_level(logging.WARNING):
        assert outbox.close(10) == 2
    assert receiver.taken == ["a", "b", "c"]
    assert sum("refused" in r.message for r in caplog.records) == 1


def test_putting_into_a_hanging_receiver_never_blocks_and_closing_is_limited():
    receiver = Receiver()
    receiver.hang.clear()
    outbox = Outbox(receiver, name="test", capacity=100, linger_s=0)
    start = time.monotonic()
    for number in range(10_000):
        outbox.put(number)
    assert time.monotonic() - start < 1
    start = time.monotonic()
    assert outbox.close(0.3) == 10_000
    assert time.monotonic() - start < 2
    receiver.hang.set()


def test_an_outage_delays_and_loses_nothing_while_there_is_room(monkeypatch):
    monkeypatch.setattr("chatsearch.tracking.outbox._FIRST_PAUSE_S", 0.02)
    receiver = Receiver()
    receiver.down = True
    outbox = Outbox(receiver, name="test", linger_s=0)
    for number in range(50):
        outbox.put(number)
        time.sleep(0.002)
    receiver.down = False
    assert outbox.close(10) == 0
    assert receiver.taken == list(range(50))


def test_closing_on_a_dead_receiver_gives_up_at_once_and_warns_once(caplog):
    receiver = Receiver()
    receiver.down = True
    with caplog.at_level(logging.WARNING):
        outbox = Outbox(receiver, name="test", linger_s=0)
        for number in range(20):
            outbox.put(number)
        time.sleep(0.1)
        start = time.monotonic()
        assert outbox.close(30) == 20
    assert time.monotonic() - start < 1
    messages = [r.message for r in caplog.records]
    assert sum("cannot be reached; the job goes on" in m for m in messages) == 1
    assert messages[-1] == "test: 20 entries were not recorded."


def test_a_closed_outbox_counts_what_it_cannot_take():
    outbox = Outbox(Receiver(), name="test", linger_s=0)
    outbox.close(5)
    outbox.put(1)
    assert outbox.num_dropped == 1


@pytest.mark.parametrize("num_items", [0, 1])
def test_closing_waits_for_no_linger(num_items):
    outbox = Outbox(Receiver(), name="test", linger_s=20)
    for item in range(num_items):
        outbox.put(item)
    start = time.monotonic()
    assert outbox.close(10) == 0
    assert time.monotonic() - start < 5
