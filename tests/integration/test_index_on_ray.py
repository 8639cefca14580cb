"""An index whose shards Ray tasks build side by side: the same as one built here, also when their workers are killed."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chatsearch.errors import CorruptArtefactError
from chatsearch.index.build import build_index
from chatsearch.index.exact import ExactIndex
from chatsearch.index.gallery import GalleryIndex
from chatsearch.index.search_parameters import SearchParameters
from chatsearch.index.tasks import RayTasks

from tests.unit.index.synthetic import RETRIEVAL_DIM, make_gallery, write_store

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_session")]
NUM_PICTURES = 1500
TASKS = RayTasks(num_cpus=0.5)


@pytest.mark.parametrize("kind", ["flat", "sq8"])
def test_bytes_are_those_of_a_build_in_one_process(tmp_path: Path, kind: str) -> None:
    gallery = make_gallery(str(tmp_path), NUM_PICTURES, num_twins=100)
    done: list[tuple[int, int]] = []
    on_ray = build_index(
        gallery.config(3, "on-ray", kind=kind, on_ray=True), lambda *so_far: done.append(so_far), TASKS
    )
    here = build_index(gallery.config(3, "here", kind=kind))
    assert on_ray.manifest.files == here.manifest.files
    assert on_ray.fingerprint == here.fingerprint
    assert on_ray.manifest.facts["ties"] == here.manifest.facts["ties"]
    assert done == [(1, 3), (2, 3), (3, 3)]


def test_lists_learnt_in_a_task_serve_all_shards(tmp_path: Path) -> None:
    gallery = make_gallery(str(tmp_path), NUM_PICTURES)
    index = GalleryIndex(build_index(gallery.config(3, kind="ivf-opq", num_lists=8), workforce=TASKS))
    queries_BD = np.random.default_rng(1).normal(size=(20, RETRIEVAL_DIM))
    everywhere = SearchParameters(nprobe=8, num_reranked=NUM_PICTURES)
    oracle = ExactIndex(gallery.items, gallery.projected_Nd)
    assert index.search(queries_BD, 10, parameters=everywhere) == oracle.search(queries_BD, 10)


def negative(number: int) -> int:
    return -number


def test_the_last_result_ends_nothing() -> None:
    # Ray's driver aborts when a task is cancelled between its value's arrival and the end of its bookkeeping.
    for _ in range(50):
        assert list(TASKS.results(negative, [(1,), (2,), (3,)])) == [-1, -2, -3]


class DyingTasks(RayTasks):
    """The first worker that takes up a function kills itself by SIGKILL when its work is done, before it is told."""

    def start(self, function: Callable[..., Any], *arguments: Any, num_results: int = 1) -> Any:
        return super().start(die_first, os.environ["DYING_NOTES"], function, *arguments, num_results=num_results)


def die_first(notes: str, function: Callable[..., Any], *arguments: Any) -> Any:
    result = function(*arguments)
    with contextlib.suppress(FileExistsError):
        Path(notes, function.__name__).touch(exist_ok=False)
        os.kill(os.getpid(), signal.SIGKILL)
    return result


def test_killed_workers_cost_only_their_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notes = tmp_path / "notes"
    notes.mkdir()
    monkeypatch.setenv("DYING_NOTES", str(notes))
    gallery = make_gallery(str(tmp_path), 2000)
    index = build_index(gallery.config(4, "killed", kind="sq8"), workforce=DyingTasks(num_cpus=0.5))
    assert {path.name for path in notes.iterdir()} == {"project_share", "learn", "build_shard"}
    assert index.manifest.files == build_index(gallery.config(4, "calm", kind="sq8")).manifest.files


def test_what_a_task_finds_wrong_comes_out_by_name(tmp_path: Path) -> None:
    gallery = make_gallery(str(tmp_path), 20)
    matrix_ND = gallery.matrix_ND.copy()
    matrix_ND[3] = 0
    store = write_store(gallery.features + "-zero", matrix_ND, gallery.items)
    with pytest.raises(CorruptArtefactError, match="no direction after projection"):
        build_index(gallery.config(2, features=store.uri), workforce=TASKS)
