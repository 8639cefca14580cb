"""Measure a model with one protocol, beside baselines on the same gallery and queries.

The result is one JSON file with the numbers, the protocol they were taken with, and the fingerprints of
all that went in.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from chatsearch.errors import ChatSearchError
from chatsearch.evaluate.config import EvaluateConfig
from chatsearch.evaluate.inputs import RESULT, inputs_of, read_result, result_fingerprint
from chatsearch.storage import resolve
from chatsearch.tracking.tracker import Tracker

from jobs.command import Job, Made, main, wide_console
from jobs.finished import Finished, Input
from jobs.recipes import evaluate as recipes


def work(config: EvaluateConfig, tracker: Tracker) -> Made:
    """Measure in this process and print the tables."""
    from chatsearch.evaluate.run import evaluate

    result = evaluate(config, tracker)
    for name in ("data", "train", "val"):  # a captioned folder has no manifest by which it would be recorded
        if config.protocol == "text_to_image" and name in result["inputs"]:
            tracker.log_input(name, **result["inputs"][name])
    show(result)
    return Made(resolve(config.output), {}, kind=RESULT, fingerprint=result["fingerprint"])


def show(result: dict[str, Any]) -> None:
    """Print the tables of a result."""
    from chatsearch.evaluate.table import table_of

    console = wide_console()
    for table in table_of(result):
        console.print(table.rich())


def recognise(config: EvaluateConfig, inputs: Sequence[Input]) -> Finished | None:
    """A result of this very measurement, over inputs that are still what they were."""
    del inputs  # it depends on more than the artefacts that the configuration names
    result = None if config.overwrite else read_result(config.output)
    if result is None:
        return None
    try:
        fingerprint = result_fingerprint(config, inputs_of(config))
    except ChatSearchError:
        return None  # the job itself says what is wrong
    return Finished(fingerprint, {}) if result.get("fingerprint") == fingerprint else None


JOB = Job("evaluate", recipes, default="plain", kind=None, work=work, recognise=recognise)

if __name__ == "__main__":
    raise SystemExit(main(JOB))
