"""Train the dual encoder that the model is compared with.

CLIP-style, on the same documents, features and starting weights, in the same number of steps.
"""

from __future__ import annotations

from chatsearch.evaluate.config import BaselineConfig
from chatsearch.kinds import DUAL_ENCODER
from chatsearch.tracking.tracker import Tracker

from jobs.command import Job, Made, main
from jobs.recipes import baseline as recipes


def work(config: BaselineConfig, tracker: Tracker) -> Made:
    """Train in this process."""
    from chatsearch.evaluate.baseline import train_baseline

    encoder = train_baseline(config, tracker)
    return Made(encoder.uri, encoder.manifest.counts)


JOB = Job("baseline", recipes, default="tiny", kind=DUAL_ENCODER, work=work)

if __name__ == "__main__":
    raise SystemExit(main(JOB))
