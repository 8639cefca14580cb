"""Run the frozen vision encoder over a gallery, once.

The feature store keeps the raw features: a new model projects them again and no picture is decoded twice.
"""

from __future__ import annotations

from chatsearch.index.config import EmbedConfig
from chatsearch.kinds import FEATURE_STORE
from chatsearch.session import prepare_environment, ray_session
from chatsearch.tracking.tracker import Tracker

from jobs.command import Job, Made, main
from jobs.recipes import embed as recipes


def work(config: EmbedConfig, tracker: Tracker) -> Made:
    """Embed on Ray Data."""
    prepare_environment()
    from chatsearch.index.embed import embed

    store = embed(config, session=ray_session)
    counts = store.manifest.counts
    tracker.log_metrics({f"num_{name}": count for name, count in counts.items()})
    return Made(store.uri, counts)


JOB = Job("embed", recipes, default="tiny_gallery", kind=FEATURE_STORE, work=work)

if __name__ == "__main__":
    raise SystemExit(main(JOB))
