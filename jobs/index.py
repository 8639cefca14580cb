"""Project stored features with a model's M_Q and build a searchable index.

One matrix product and FAISS shards with explicit ids: no picture is opened, and Ray is needed only for ``on_ray=true``.
``kind=auto`` chooses the kind within budgets, by query vectors of the model (jobs.queries).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from chatsearch.index.config import IndexConfig
from chatsearch.kinds import GALLERY_INDEX
from chatsearch.tracking.tracker import Tracker

from jobs.command import Job, Made, main
from jobs.recipes import index as recipes

if TYPE_CHECKING:
    from chatsearch.index.workforce import Workforce


def work(config: IndexConfig, tracker: Tracker) -> Made:
    """Build in this process, or with its shards side by side on Ray."""
    from chatsearch.index.build import build_index
    from chatsearch.progress import progress

    with _workforce(config) as workforce, progress("index", config.num_shards, "shards") as advance:
        index = build_index(config, lambda done, total: advance(1), workforce)
    counts = index.manifest.counts
    tracker.log_metrics({f"num_{name}": count for name, count in counts.items()})
    facts = index.manifest.facts
    if "tuning" in facts:
        tracker.log_artefact("tuning.json", facts["tuning"])
        chosen = " ".join(f"{name}={value}" for name, value in facts["search"].items())
        print(f"chosen {facts['kind']} {chosen}".rstrip())
    return Made(index.uri, counts)


@contextmanager
def _workforce(config: IndexConfig) -> Iterator[Workforce | None]:
    if not config.on_ray:
        yield None
        return
    from chatsearch.session import ray_session

    with ray_session():
        from chatsearch.index.tasks import RayTasks

        yield RayTasks(config.task_cpus, config.task_gpus if config.kind.startswith("ivf") else 0.0)


JOB = Job("index", recipes, default="tiny", kind=GALLERY_INDEX, work=work)

if __name__ == "__main__":
    raise SystemExit(main(JOB))
