"""Train a baseline that the model is compared with: a CLIP-style dual encoder, or FROMAGe.

On the same documents, features and starting weights, in the same number of steps.
"""

from __future__ import annotations

from chatsearch.evaluate.config import BaselineConfig
from chatsearch.tracking.tracker import Tracker

from jobs.command import Job, Made, main
from jobs.recipes import baseline as recipes


def work(config: BaselineConfig, tracker: Tracker) -> Made:
    """Train in this process."""
    from chatsearch.evaluate.baseline import train_baseline

    baseline = train_baseline(config, tracker)
    return Made(baseline.uri, baseline.manifest.counts)


def kind(config: BaselineConfig) -> str:
    """Which baseline it is."""
    return config.KIND


JOB = Job("baseline", recipes, default="tiny", kind=kind, work=work)

if __name__ == "__main__":
    raise SystemExit(main(JOB))
