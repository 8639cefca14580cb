"""Train one stage: alignment or instruction tuning.

Ray Train starts the workers, DeepSpeed shards the optimizer. An interrupted run goes on from its last
checkpoint when the same command is run again; at the end there is a model bundle.
"""

from __future__ import annotations

from contextlib import ExitStack, nullcontext

from chatsearch.kinds import MODEL_BUNDLE
from chatsearch.session import ray_session
from chatsearch.tracking.tracker import Tracker
from chatsearch.train.config import TrainConfig

from jobs.command import Job, Made, main
from jobs.photographs import input_steps, located
from jobs.recipes import train as recipes
from jobs.step import run_steps


def work(config: TrainConfig, tracker: Tracker) -> Made:
    """Make what ``data`` stands for, train, then enter the bundle into the model registry under its stage as alias."""
    with ray_session() if config.num_workers or config.data else nullcontext():
        if config.data:
            with ExitStack() as stack:
                run_steps(input_steps(config), tracker.children, stack)
        from chatsearch.train.run import train

        bundle = train(config, tracker)
    if config.registered_name:
        tracker.register_model(config.registered_name, bundle.uri, bundle.fingerprint, alias=config.stage)
    return Made(bundle.uri, bundle.manifest.counts)


def forecast(config: TrainConfig) -> str:
    """Parameters, tokens, FLOPs, memory and hours."""
    from chatsearch.train.plan import training_plan

    return training_plan(config)


JOB = Job("train", recipes, default=None, kind=MODEL_BUNDLE, work=work, forecast=forecast, complete=located)

if __name__ == "__main__":
    raise SystemExit(main(JOB))
