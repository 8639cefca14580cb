"""Store the norms that one model needs to search a feature store as it is, with its M_Q folded into the query.

One matrix product and a number a picture: several models share one store, and no index is built.
"""

from __future__ import annotations

from chatsearch.index.config import FoldConfig
from chatsearch.kinds import FOLDED_NORMS
from chatsearch.tracking.tracker import Tracker

from jobs.command import Job, Made, main
from jobs.recipes import fold as recipes


def work(config: FoldConfig, tracker: Tracker) -> Made:
    """Compute in this process."""
    from chatsearch.index.fold import build_norms

    norms = build_norms(config)
    counts = norms.manifest.counts
    tracker.log_metrics({f"num_{name}": count for name, count in counts.items()})
    return Made(norms.uri, counts)


JOB = Job("fold", recipes, default="tiny", kind=FOLDED_NORMS, work=work)

if __name__ == "__main__":
    raise SystemExit(main(JOB))
