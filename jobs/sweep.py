"""Train and measure a list of cells at several seeds, and say which claims hold in each seed.

Every step is an ordinary job. What is finished is found again, also by another sweep over the same folder; an interrupted
sweep goes on when the same command is run again. The result is one JSON file, written anew after every cell.
"""

from __future__ import annotations

import os
import sys
import time
from contextlib import ExitStack

from chatsearch.errors import TrainingError
from chatsearch.evaluate.inputs import read_result
from chatsearch.evaluate.seeds import claims_table, rows_table
from chatsearch.session import ray_session
from chatsearch.storage import Folder, resolve
from chatsearch.tracking.config import RunKey, TrackingConfig
from chatsearch.tracking.tracker import Tracker, open_tracker

from jobs.cell import CellConfig, SweepConfig, cell_steps, shared_steps
from jobs.command import Job, Made, Plan, execute, main, run_key, wide_console
from jobs.recipes import sweep as recipes
from jobs.step import Step, run_steps
from jobs.sweep_result import CellResult, SweepResult, check_output, forecast_of


def work(config: SweepConfig, tracker: Tracker) -> Made:
    """Make the shared inputs, then one cell after the other, each a run below the sweep's."""
    check_output(config)
    paths = {(cell.name, seed): cell_steps(config, cell, seed) for cell in config.cells for seed in config.seeds}
    result = SweepResult(config)
    with ExitStack() as stack:
        run_steps(shared_steps(config), tracker.children, stack, overwrite=config.overwrite)
    with ExitStack() as stack:
        if config.num_workers:
            stack.enter_context(ray_session())  # one for all cells: its start is what costs
        for cell in config.cells:
            for seed in config.seeds:
                print(f"[{len(result.cells) + 1}/{len(paths)}] {cell.name}, seed {seed}", flush=True)
                result.cells.append(run_cell(config, cell, seed, paths[cell.name, seed], tracker.children))
                write(result)
    show(result)
    tracker.log_metrics(result.metrics())
    for key, value in result.tags().items():
        tracker.set_tag(key, value)
    tracker.log_artefact("sweep.json", result.as_json())
    failed = [done for done in result.cells if done.error]
    if failed:
        names = ", ".join(f"{done.cell} (seed {done.seed})" for done in failed)
        raise TrainingError(
            f"{len(failed)} of {len(paths)} cells did not end: {names}. The first: {failed[0].error} The others are in "
            f"{config.output}; the same command tries these again."
        )
    return Made(resolve(config.output), {"cells": len(paths)})


def run_cell(
    config: SweepConfig, cell: CellConfig, seed: int, path: list[Step], tracking: TrackingConfig
) -> CellResult:
    """Do the steps of one cell that are not finished, and read its measurement.

    A training that cannot go on is a result, too: it stops this cell and not the sweep.
    """
    begin = time.monotonic()
    run = RunKey(
        job=f"{cell.name}, seed {seed}", key=f"{run_key('sweep', config)}-{cell.name}-{seed}", parent=tracking.parent
    )
    with open_tracker(tracking, run) as tracker:
        tracker.log_params({"cell": cell.name, "seed": seed, "align": cell.align, "instruct": cell.instruct})
        made: list[Made] = []
        try:
            for step in path:
                plan = Plan.of(step.job, step.recipe, step.config)
                print(f"       {step.title}: {'finished before' if plan.finished else plan.output}", flush=True)
                made.append(execute(step.job, plan, tracker.children))
        except TrainingError as error:
            tracker.set_tag("error", str(error))
            tracker.finish("FAILED")
            print(f"       {error}", file=sys.stderr, flush=True)
            return CellResult(cell.name, seed, None, str(error), time.monotonic() - begin)
        measured = read_result(made[-1].uri)
        result = CellResult(cell.name, seed, measured, "", 0.0 if made[-1].reused else time.monotonic() - begin)
        tracker.log_metrics(result.metrics(config.gallery))
    return result


def write(result: SweepResult) -> None:
    """Write what there is of the result, whole or not at all."""
    folder, name = os.path.split(resolve(result.config.output))
    Folder(folder).write_bytes(name, result.as_bytes())


def show(result: SweepResult) -> None:
    """Print the rows and the claims."""
    console = wide_console()
    console.print(rows_table(result.title(), result.rows()).rich())
    judged = result.judged()
    if judged:
        console.print(claims_table(judged).rich())


JOB = Job("sweep", recipes, default=None, kind=None, work=work, forecast=forecast_of)

if __name__ == "__main__":
    raise SystemExit(main(JOB))
