"""Turn a corpus into document shards.

Captions, dialogues and pictures go into Parquet shards with a manifest; bad records are counted and set
aside with their key and reason.
"""

from __future__ import annotations

from chatsearch.data.config import PrepareConfig
from chatsearch.kinds import DOCUMENT_SHARDS
from chatsearch.session import prepare_environment, ray_session
from chatsearch.tracking.tracker import Tracker

from jobs.command import Job, Made, main
from jobs.recipes import prepare as recipes


def work(config: PrepareConfig, tracker: Tracker) -> Made:
    """Prepare on Ray Data."""
    prepare_environment()
    from chatsearch.data.prepare import prepare

    shards = prepare(config, ray_session)
    counts = shards.manifest.counts
    tracker.log_metrics({f"num_{name}": count for name, count in counts.items()})
    return Made(shards.uri, counts)


JOB = Job("prepare", recipes, default="tiny_align", kind=DOCUMENT_SHARDS, work=work)

if __name__ == "__main__":
    raise SystemExit(main(JOB))
