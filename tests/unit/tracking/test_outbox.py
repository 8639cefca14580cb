"""The queue between a job and a receiver that may be slow, dead or hostile."""

import logging
import threading
import time

import pytest
from chatsearch.tracking.outbox import Outbox, UnreachableError


class Receiver:
    """Takes everything, unless told to be down, to refuse or to hang until it may go on."""

    def __init__(self):
        self.taken = []
        self.batches = []
        self.num_refused = 0
        self.down = False
        self.called = threading.Event()
        self.go_on = threading.Event()
        self.go_on.set()

    def __call__(self, batch):
        self.called.set()
        self.go_on.wait()
        if self.down:
            self.num_refused += 1
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


def is_running(name):
    """Whether the thread of the outbox with this name still lives."""
    return any(thread.name == f"outbox-{name}" for thread in threading.enumerate())


def test_putting_into_a_hanging_receiver_never_blocks_and_closing_is_limited():
    receiver = Receiver()
    receiver.go_on.clear()
    outbox = Outbox(receiver, name="hanging", capacity=100, linger_s=0)
    outbox.put(0)
    assert receiver.called.wait(30)
    for number in range(1, 10_000):
        outbox.put(number)
    assert outbox.close(0.3) == 10_000
    # The receiver has answered nothing all along: a put or a close that waits for it would never have come back.
    assert (receiver.taken, is_running("hanging")) == ([], True)
    receiver.go_on.set()


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


def test_closing_on_a_dead_receiver_gives_up_at_once_and_warns_once(caplog, monkeypatch):
    monkeypatch.setattr("chatsearch.tracking.outbox._FIRST_PAUSE_S", 1_000)
    receiver = Receiver()
    receiver.down = True
    with caplog.at_level(logging.WARNING):
        outbox = Outbox(receiver, name="dead", linger_s=0)
        for number in range(20):
            outbox.put(number)
        assert receiver.called.wait(30)
        assert outbox.close(30) == 20
    assert not is_running("dead"), "it does not sit out its pause"
    assert receiver.num_refused <= 2
    messages = [r.message for r in caplog.records]
    assert sum("cannot be reached; the job goes on" in m for m in messages) == 1
    assert messages[-1] == "dead: 20 entries were not recorded."


def test_a_closed_outbox_counts_what_it_cannot_take():
    outbox = Outbox(Receiver(), name="test", linger_s=0)
    outbox.close(5)
    outbox.put(1)
    assert outbox.num_dropped == 1


@pytest.mark.parametrize("num_items", [0, 1])
def test_closing_waits_for_no_linger(num_items):
    receiver = Receiver()
    outbox = Outbox(receiver, name=f"linger-{num_items}", linger_s=1_000)
    for item in range(num_items):
        outbox.put(item)
    assert outbox.close(30) == 0, "what waited for company was handed over"
    assert receiver.taken == list(range(num_items))
    assert not is_running(f"linger-{num_items}")
