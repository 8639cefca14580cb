"""The whole path in one go: pictures, weights, training, gallery, index, scores, chat page.

Each step is an ordinary job; what an earlier run finished is recognised from its manifest. All steps share
one Ray session, which is started by the first step that has work to do.
"""

from __future__ import annotations

import time
from contextlib import ExitStack

from chatsearch.session import ray_session
from chatsearch.storage import resolve
from chatsearch.tracking.config import TrackingConfig
from chatsearch.tracking.tracker import Tracker

from jobs import evaluate, serve
from jobs.command import Job, Made, Plan, execute, main, run_key, wide_console
from jobs.recipes import quickstart as recipes
from jobs.recipes.places import Places
from jobs.recipes.quickstart import QuickstartConfig
from jobs.steps import Step, steps


def work(config: QuickstartConfig, tracker: Tracker) -> Made:
    """Run all steps, show the table, then serve."""
    tracking = TrackingConfig(parent=run_key(JOB.name, config))
    begin = time.monotonic()
    with ExitStack() as stack:
        done = run_steps(steps(config), tracking, stack)
        show_tables(done, seconds=time.monotonic() - begin, address=tracker.address)
        if config.serve:
            recipe = getattr(serve.JOB.recipes, config.size)(Places(resolve(config.output)))
            serve.work(recipe.replace(port=config.port), tracker)
    return Made(resolve(config.output), {"steps": len(done)})


def run_steps(path: list[Step], tracking: TrackingConfig, stack: ExitStack) -> list[tuple[Step, Made]]:
    """Run steps in order in one Ray session, which ``stack`` ends."""
    done: list[tuple[Step, Made]] = []
    session = False
    for number, step in enumerate(path, 1):
        plan = Plan.of(step.job, step.recipe, step.config)
        state = "finished before" if plan.finished else f"jobs.{step.job.name} --recipe {step.recipe}"
        print(f"[{number}/{len(path)}] {step.title}: {state}", flush=True)
        if plan.finished is None and not session:
            stack.enter_context(ray_session())
            session = True
        done.append((step, execute(step.job, plan, tracking)))
    return done


def show_tables(done: list[tuple[Step, Made]], *, seconds: float, address: str) -> None:
    """Seconds and place of every step, ours beside the baselines, and where the runs are recorded."""
    from rich.table import Table

    console = wide_console()
    table = Table("step", "seconds", "made", title="Steps", title_justify="left")
    for step, made in done:
        table.add_row(step.title, "finished before" if made.reused else f"{made.seconds:.0f}", made.uri)
    table.add_row("all", f"{seconds:.0f}", "")
    console.print(table)
    for step, made in done:
        # A measurement of this run has shown its tables already.
        if step.job is evaluate.JOB and made.reused and (result := evaluate.read_result(made.uri)) is not None:
            evaluate.show(result)
    console.print(f"Runs: {address}")


JOB = Job("quickstart", recipes, default="tiny", kind=None, work=work)

if __name__ == "__main__":
    raise SystemExit(main(JOB))
