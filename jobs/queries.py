"""Turn dialogues into the query vectors that an index of the model is tuned with: ``index --set kind=auto --set queries=URI``.

Every dialogue that ends in a picture gives one vector, read where the model would ask for it. One half of them is for tuning, the
other for measuring what came of it; no dialogue and no wanted picture is in both.
"""

from __future__ import annotations

from chatsearch.evaluate.config import QueriesConfig
from chatsearch.kinds import QUERY_VECTORS
from chatsearch.tracking.tracker import Tracker

from jobs.command import Job, Made, main
from jobs.recipes import queries as recipes


def work(config: QueriesConfig, tracker: Tracker) -> Made:
    """Encode in this process."""
    from chatsearch.evaluate.query_vectors import make_query_vectors

    made = make_query_vectors(config)
    counts = made.manifest.counts
    tracker.log_metrics({f"num_{name}": count for name, count in counts.items()})
    return Made(made.uri, counts)


JOB = Job("queries", recipes, default="tiny", kind=QUERY_VECTORS, work=work)

if __name__ == "__main__":
    raise SystemExit(main(JOB))
