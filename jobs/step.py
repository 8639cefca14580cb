"""One job of a path of jobs, and running such a path."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

from chatsearch.session import ray_session
from chatsearch.tracking.config import TrackingConfig

from jobs.command import Job, Made, Plan, execute


@dataclass(frozen=True)
class Step:
    """One job of the path.

    Attributes:
        title: what the table calls it.
        job: the job.
        recipe: name of the recipe that the configuration began as.
        config: what it is told.
    """

    title: str
    job: Job[Any]
    recipe: str
    config: Any


def run_steps(
    path: list[Step], tracking: TrackingConfig, stack: ExitStack, *, overwrite: bool = False
) -> list[tuple[Step, Made]]:
    """Run steps in order in one Ray session, which ``stack`` ends.

    Args:
        path: the steps.
        tracking: how each is recorded.
        stack: holds the session.
        overwrite: replace what a step finds at its output and did not make of these inputs in this way.
    """
    done: list[tuple[Step, Made]] = []
    session = False
    for number, step in enumerate(path, 1):
        plan = Plan.of(step.job, step.recipe, step.config)
        state = "finished before" if plan.finished else f"jobs.{step.job.name} --recipe {step.recipe}"
        print(f"[{number}/{len(path)}] {step.title}: {state}", flush=True)
        if plan.finished is None and overwrite:
            plan = replace(plan, config=step.config.replace(overwrite=True))
        if plan.finished is None and not session:
            stack.enter_context(ray_session())
            session = True
        done.append((step, execute(step.job, plan, tracking)))
    return done
