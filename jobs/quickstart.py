"""The whole path in one go: pictures, weights, training, gallery, index, scores, chat page.

Each step is an ordinary job; what an earlier run finished is recognised from its manifest. All steps share
one Ray session, which is started by the first step that has work to do.
"""

from __future__ import annotations

import time
from contextlib import ExitStack

from chatsearch.corpora.config import CaptionedFolderConfig
from chatsearch.corpora.open import open_corpus
from chatsearch.evaluate.inputs import read_result
from chatsearch.storage import resolve
from chatsearch.tracking.tracker import Tracker

from jobs import evaluate, serve
from jobs.command import Job, Made, Plan, main, wide_console
from jobs.recipes import quickstart as recipes
from jobs.recipes.places import Places
from jobs.recipes.quickstart import QuickstartConfig
from jobs.step import Step, run_steps
from jobs.steps import steps


def work(config: QuickstartConfig, tracker: Tracker) -> Made:
    """Run all steps, show the table, then serve."""
    path = steps(config)
    begin = time.monotonic()
    with ExitStack() as stack:
        done = run_steps(path, tracker.children, stack, overwrite=config.overwrite)
        show_tables(done, seconds=time.monotonic() - begin, address=tracker.address)
        if config.serve:
            recipe = getattr(serve.JOB.recipes, config.size)(Places(resolve(config.output)))
            serve.work(recipe.replace(port=config.port), tracker)
    return Made(resolve(config.output), {"steps": len(done)})


def check(config: QuickstartConfig) -> None:
    """Find out before the first step what would stop the last one, or the second.

    Raises:
        InputError: ``data`` is no captioned folder.
        ConfigError: size and data do not go together, or the port to serve on is taken.
    """
    steps(config)  # refuses what does not go together
    if config.data:
        open_corpus(CaptionedFolderConfig(path=config.data))
    if config.serve:
        from serve.run import LOOPBACK, check_port

        check_port(LOOPBACK, config.port)


def forecast(config: QuickstartConfig) -> str:
    """The steps, and what lies at the output of each."""
    lines = ["", "Steps:"]
    for number, step in enumerate(steps(config), start=1):
        plan = Plan.of(step.job, step.recipe, step.config)
        lines.append(
            f"{number:>4}. {step.title}: jobs.{step.job.name} --recipe {step.recipe} -> {plan.output} ({plan.state})"
        )
    return "\n".join(lines)


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
        if step.job is evaluate.JOB and made.reused and (result := read_result(made.uri)) is not None:
            evaluate.show(result)
    console.print(f"Runs: {address}")


JOB = Job("quickstart", recipes, default="tiny", kind=None, work=work, check=check, forecast=forecast)

if __name__ == "__main__":
    raise SystemExit(main(JOB))
