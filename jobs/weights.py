"""Make the weights that training starts from.

The tiny size trains its own on the scenes; the others fetch published ones and convert them once.
"""

from __future__ import annotations

from chatsearch.kinds import MODEL_WEIGHTS
from chatsearch.model.config import PublishedWeightsConfig
from chatsearch.tracking.tracker import Tracker
from chatsearch.train.config import TinyWeightsConfig

from jobs.command import Job, Made, main
from jobs.recipes import weights as recipes


def work(config: TinyWeightsConfig | PublishedWeightsConfig, tracker: Tracker) -> Made:
    """Train or fetch, in this process."""
    if isinstance(config, TinyWeightsConfig):
        from chatsearch.train.pretrain import build_tiny_weights

        weights = build_tiny_weights(config)
    else:
        from chatsearch.model.published import build_weights

        weights = build_weights(config)
    counts = weights.manifest.counts
    tracker.log_metrics({f"num_{name}": count for name, count in counts.items()})
    return Made(weights.uri, counts)


JOB: Job[TinyWeightsConfig | PublishedWeightsConfig] = Job(
    "weights", recipes, default="tiny", kind=MODEL_WEIGHTS, work=work
)

if __name__ == "__main__":
    raise SystemExit(main(JOB))
