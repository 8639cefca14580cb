"""The paper's tables 2, 4 and 6 and figures 5 and 6 in small, from the sweeps recorded in MLflow.

Of every sweep its newest finished run is taken; one that has none is named as missing. Runs are read from where jobs
record them: MLFLOW_TRACKING_URI, else runs/mlflow.db.
"""

from __future__ import annotations

from chatsearch.evaluate.report.config import ReportConfig
from chatsearch.storage import resolve
from chatsearch.tracking.config import TrackingConfig
from chatsearch.tracking.tracker import Tracker

from jobs.command import Job, Made, main
from jobs.recipes import report as recipes


def check(config: ReportConfig) -> None:
    """Look for a store and at the output before a run is opened, which would make an empty store."""
    from chatsearch.evaluate.report.page import check_output
    from chatsearch.tracking.runs import check_store

    check_store(TrackingConfig())
    check_output(config.output)


def work(config: ReportConfig, tracker: Tracker) -> Made:
    """Read the runs, in this process, and write the page."""
    from chatsearch.evaluate.report.page import Report, write
    from chatsearch.evaluate.report.sweep import KEY_PREFIX
    from chatsearch.tracking.runs import read_runs

    report = Report.of(config, read_runs(tracker.children, KEY_PREFIX))
    files = write(report, config.output)
    for sweep in report.missing():
        print(f"missing {sweep.name}: {sweep.reason}", flush=True)
    tracker.log_artefact("report.json", report.as_json())
    return Made(resolve(config.output), {"files": len(files), "missing": len(report.missing())})


JOB = Job("report", recipes, default="scenes", kind=None, work=work, check=check)

if __name__ == "__main__":
    raise SystemExit(main(JOB))
