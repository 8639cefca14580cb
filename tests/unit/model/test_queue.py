"""Section 8, checks 3 and 7: what the queue holds."""

import numpy as np
import torch
from chatsearch.model.queue import EMPTY, Candidates, FeatureQueue, content_id
from chatsearch.types import content_hash
from hypothesis import given, settings
from hypothesis import strategies as st

DIM = 3


def images(ids):
    """Features that say which image they are."""
    ids_N = torch.as_tensor(list(ids), dtype=torch.int64)
    return torch.stack([ids_N.float() * (k + 1) for k in range(DIM)], dim=1).reshape(-1, DIM), ids_N


@settings(max_examples=60, deadline=None)
@given(size=st.integers(0, 12), steps=st.lists(st.integers(0, 20), max_size=8))
def test_it_holds_exactly_the_newest_in_order_and_every_image_of_the_step_is_a_candidate(size, steps):
    queue = FeatureQueue(size, DIM)
    history: list[int] = []
    for num_images in steps:
        ids = range(len(history), len(history) + num_images)
        features_ND, ids_N = images(ids)
        candidates = queue.enqueue(features_ND, ids_N)
        history += ids

        features_CD, ids_C = queue.contents()
        newest = history[max(0, len(history) - size) :] if size else []
        assert ids_C.tolist() == newest
        assert torch.equal(features_CD, images(newest)[0])

        assert candidates.ids_C[candidates.slots_N].tolist() == list(ids)
        assert torch.equal(candidates.features_CD[candidates.slots_N], features_ND)
        assert candidates.valid_C[candidates.slots_N].all()
        seen = candidates.ids_C[candidates.valid_C].tolist()
        assert sorted(seen) == (list(ids) if num_images > size else sorted(newest))
        assert (candidates.ids_C[~candidates.valid_C] == EMPTY).all()


def test_after_more_than_a_thousand_images_it_holds_the_newest_thousand_in_order():
    queue = FeatureQueue(1000, DIM)
    generator = np.random.default_rng(0)
    total = 0
    while total < 3456:
        num_images = int(generator.integers(1, 90))
        queue.enqueue(*images(range(total, total + num_images)))
        total += num_images
    _, ids_C = queue.contents()
    assert ids_C.tolist() == list(range(total - 1000, total))


def test_one_worker_and_four_workers_hold_the_same_whatever_the_accumulation():
    """Images of a step are gathered in the order (sample, position) before they enter."""
    generator = np.random.default_rng(1)
    queues = {1: FeatureQueue(17, DIM), 4: FeatureQueue(17, DIM)}
    next_id = 0
    for _ in range(6):
        images_per_sample = generator.integers(0, 4, size=8)
        samples, positions = [], []
        for sample, count in enumerate(images_per_sample):
            samples += [sample] * count
            positions += range(count)
        ids = np.arange(next_id, next_id + len(samples))
        next_id += len(samples)
        for num_workers, queue in queues.items():
            # Samples are dealt round the workers, as they are in training; each worker holds its own.
            held = [[k for k, sample in enumerate(samples) if sample % num_workers == w] for w in range(num_workers)]
            gathered = [k for part in held for k in part]
            order = sorted(gathered, key=lambda k: (samples[k], positions[k]))
            queue.enqueue(*images(ids[order]))
    one, four = queues[1].state_dict(), queues[4].state_dict()
    assert all(torch.equal(one[name], four[name]) for name in one)


def test_it_survives_a_checkpoint():
    queue = FeatureQueue(5, DIM)
    queue.enqueue(*images(range(7)))
    queue.enqueue(*images(range(7, 9)))
    restored = FeatureQueue(5, DIM)
    restored.load_state_dict(queue.state_dict(), strict=True)
    for one in (queue, restored):
        one.enqueue(*images([9]))
    assert restored.contents()[1].tolist() == queue.contents()[1].tolist() == [5, 6, 7, 8, 9]


def test_candidates_of_a_step_do_not_change_with_the_next_step():
    queue = FeatureQueue(2, DIM)
    candidates = queue.enqueue(*images([1, 2]))
    queue.enqueue(*images([3, 4]))
    assert candidates.ids_C.tolist() == [1, 2]
    assert torch.equal(candidates.features_CD, images([1, 2])[0])


def test_a_queue_of_size_zero_offers_only_the_images_given():
    candidates = FeatureQueue(0, DIM).enqueue(*images([4, 5]))
    only = Candidates.only(*images([4, 5]))
    assert torch.equal(candidates.ids_C, only.ids_C)
    assert candidates.slots_N.tolist() == [0, 1]


def test_content_ids_are_the_first_63_bits_of_the_hash():
    name = content_hash(b"picture")
    assert content_id(name) == int(name, 16) >> (256 - 63)
    assert 0 <= content_id("f" * 64) < 2**63
