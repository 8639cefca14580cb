"""Project stored features with a model's M_Q and build a searchable index.

One matrix product and FAISS shards with explicit ids: no picture is opened, no Ray is needed. ``kind=auto`` chooses the kind within
budgets, by query vectors of the model (jobs.queries).
"""

from __future__ import annotations

from chatsearch.index.config import IndexConfig
from chatsearch.kinds import GALLERY_INDEX
from chatsearch.tracking.tracker import Tracker

from jobs.command import Job, Made, main
from jobs.recipes import index as recipes


def work(config: IndexConfig, tracker: Tracker) -> Made:
    """Build in this process."""
    from chatsearch.index.build import build_index
    from chatsearch.progress import progress

    with progress("index", config.num_shards, "shards") as advance:
        index = build_index(config, lambda done, total: advance(1))
    counts = index.manifest.counts
    tracker.log_metrics({f"num_{name}": count for name, count in counts.items()})
    facts = index.manifest.facts
    if "tuning" in facts:
        tracker.log_artefact("tuning.json", facts["tuning"])
        print(
            f"chosen {facts['kind']} {' '.join(f'{name}={value}' for name, value in facts['search'].items())}".rstrip()
        )
    return Made(index.uri, counts)


JOB = Job("index", recipes, default="tiny", kind=GALLERY_INDEX, work=work)

if __name__ == "__main__":
    raise SystemExit(main(JOB))
