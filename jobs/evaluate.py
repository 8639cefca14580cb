"""Measure a model with one protocol, beside baselines on the same gallery and queries.

The result is one JSON file with the numbers, the protocol they were taken with, and the fingerprints of
all that went in.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from typing import Any

from chatsearch.corpora.config import CaptionedFolderConfig
from chatsearch.corpora.open import open_corpus
from chatsearch.evaluate.config import EvaluateConfig
from chatsearch.manifest import read_manifest
from chatsearch.storage import Folder, resolve
from chatsearch.tracking.tracker import Tracker
from chatsearch.types import Kind

from jobs.command import Job, Made, main, wide_console
from jobs.finished import Finished, Input
from jobs.recipes import evaluate as recipes


def work(config: EvaluateConfig, tracker: Tracker) -> Made:
    """Measure in this process and print the tables."""
    from chatsearch.evaluate.run import evaluate

    result = evaluate(config, tracker)
    show(result)
    return Made(resolve(config.output), {})


def show(result: dict[str, Any]) -> None:
    """Print the tables of a result."""
    from chatsearch.evaluate.table import table_of

    console = wide_console()
    for table in table_of(result):
        console.print(table.rich())


def read_result(uri: str) -> dict[str, Any] | None:
    """The result at a URI, or None where none can be read."""
    folder, name = os.path.split(resolve(uri))
    if not Folder(folder).exists(name):
        return None
    try:
        return json.loads(Folder(folder).read_bytes(name))
    except ValueError:
        return None


def recognise(config: EvaluateConfig, inputs: Sequence[Input]) -> Finished | None:
    """A result of this very measurement, over inputs that are still what they were."""
    result = read_result(config.output)
    try:
        if result is None or EvaluateConfig.model_validate(result["config"]).content() != config.content():
            return None
        recorded = {"model": result["model"], **result["inputs"]}
        split = result.get("split")
    except (KeyError, TypeError, ValueError):
        return None  # of another version: measured again
    named = {"model": config.model, "data": config.data}
    if config.protocol == "chatsearch":
        named["index"] = config.index
    if config.protocol != "decision" and config.baseline and "dual_encoder" in config.baselines:
        named["baseline"] = config.baseline
    if set(named) != {name for name in recorded if not name.startswith("features")}:
        return None
    for name, entry in recorded.items():
        uri = named.get(name, entry["uri"])
        captioned = name == "data" and config.protocol == "text_to_image"
        if entry["fingerprint"] != (_captions_fingerprint(uri, split) if captioned else _fingerprint(uri)):
            return None
    return Finished(recorded["model"]["fingerprint"], {})


def _fingerprint(uri: str) -> str | None:
    manifest = read_manifest(uri)
    return manifest.fingerprint if manifest else None


def _captions_fingerprint(folder: str, split: str | None) -> str:
    wanted = None if split == "all" else split
    return open_corpus(CaptionedFolderConfig(path=folder, split=wanted, emit=(Kind.CAPTION,))).fingerprint()


JOB = Job("evaluate", recipes, default="plain", kind=None, work=work, recognise=recognise)

if __name__ == "__main__":
    raise SystemExit(main(JOB))
