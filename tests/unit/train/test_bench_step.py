"""The GPU benchmark of a step, run whole on the tiny shape, so that it is known to work before it meets a GPU."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from jobs.recipes import model
from tests.gpu.bench_step import TINY, VARIANTS, guarded, main, summary
from tests.gpu.steps import packed_step, padded_step
from tests.gpu.synthetic_documents import documents, row_groups


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def groups():
    return row_groups(documents(model.tiny(), TINY.num_documents, TINY.max_length), TINY.length, TINY.rows)


def test_the_whole_script_runs_on_the_tiny_shape(tmp_path: Path) -> None:
    out = tmp_path / "made" / "g1.json"
    assert main(["--out", str(out), "--tiny", "--device", "cpu"]) == 0
    results = json.loads(out.read_text())
    assert [entry["status"] for entry in results["measurements"]] == [
        "ok" if variant.attention == "sdpa" else "unavailable" for variant in VARIANTS
    ]
    done = [entry for entry in results["measurements"] if entry["status"] == "ok"]
    for entry in done:
        assert entry["num_steps"] == TINY.num_steps == len(entry["step_ms_runs"])
        assert entry["step_ms_min_max"][0] <= entry["step_ms"] <= entry["step_ms_min_max"][1]
        assert entry["slots_per_s"] >= entry["tokens_per_s"] > entry["images_per_s"] > 0  # equal where rows are full
        assert 0 < entry["mfu"] < entry["hfu"] < 1
    packed, padded = ([e for e in done if e["layout"] == layout] for layout in ("packed", "padded"))
    assert min(e["slot_fill"] for e in packed) > max(e["slot_fill"] for e in padded)
    # The same documents, from an empty queue: what is computed is the same in either layout, compiled or not.
    losses = [entry["first_loss"] for entry in done]
    assert losses == pytest.approx([losses[0]] * len(losses), rel=0.01)
    assert results["summary"] == summary(results["measurements"])
    assert [path.name for path in out.parent.iterdir()] == ["g1.json"]


def test_without_time_nothing_is_measured_and_all_is_told(tmp_path: Path) -> None:
    begin = time.monotonic()
    assert main(["--out", str(tmp_path / "g1.json"), "--tiny", "--device", "cpu", "--minutes", "0"]) == 0
    assert time.monotonic() - begin < 30
    results = json.loads((tmp_path / "g1.json").read_text())
    assert {entry["status"] for entry in results["measurements"]} == {"no_time"}
    assert results["summary"]["packed_over_padded"] is None


def test_one_variant_that_does_not_fit_or_fails_ends_nothing() -> None:
    def too_large():
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB. More.")

    assert guarded(too_large) == {"status": "out_of_memory", "reason": "CUDA out of memory"}
    assert guarded(lambda: 1 / 0)["status"] == "failed"  # type: ignore[arg-type, return-value]


def test_padded_and_packed_steps_hold_the_same_documents(groups) -> None:
    for examples in groups:
        packed, padded = packed_step(examples, TINY), padded_step(examples, TINY)
        assert packed.volume == padded.volume
        assert packed.slots == TINY.rows * TINY.length
        assert all(batch.labels.size <= packed.slots for batch in padded.batches)
        for name in ("labels", "image_target", "image_first"):
            values = [np.concatenate([getattr(b, name).ravel() for b in s.batches]) for s in (packed, padded)]
            kept = [np.sort(value[value != -100]) if name == "labels" else np.sort(value) for value in values]
            assert np.array_equal(*kept)
        hashes = [sorted(h for b in step.batches for h in b.image_hashes) for step in (packed, padded)]
        assert hashes[0] == hashes[1]


def test_synthetic_lengths_have_the_cited_means() -> None:
    config = model.paper()
    made = documents(config, 2000, 10**6)
    captions = [len(e) for n, e in enumerate(made) if n % 5 < 4]
    pages = [e for n, e in enumerate(made) if n % 5 == 4]
    assert np.mean(captions) == pytest.approx(config.block_length + 1 + 10.3 * 1.35, abs=0.5)
    images = np.mean([len(e.image_hashes) for e in pages])
    assert images == pytest.approx(4.1, rel=0.1)  # a page with few sentences holds fewer
    text = np.mean([len(e) - 1 - config.block_length * len(e.image_hashes) for e in pages])
    assert text == pytest.approx(333, rel=0.1)
