"""The quickstart's steps: ordinary jobs in order, each with the configuration that its recipe gives."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from chatsearch.corpora.config import CaptionedFolderConfig
from chatsearch.data.config import PrepareConfig
from chatsearch.errors import ConfigError
from chatsearch.evaluate.config import EvaluateConfig

from jobs import baseline, embed, evaluate, index, prepare, train, weights
from jobs.command import Job
from jobs.recipes.places import Places
from jobs.recipes.quickstart import QuickstartConfig
from jobs.step import Step


def steps(config: QuickstartConfig) -> list[Step]:
    """All steps up to the table.

    Raises:
        ConfigError: size and data do not go together.
    """
    if config.size == "small" and not config.data:
        raise ConfigError(
            "The small size works on photographs. Name a captioned folder: --set data=FOLDER (make: DATA=FOLDER)."
        )
    if config.size == "tiny" and config.data:
        raise ConfigError(
            "The tiny size has seen drawn scenes only. For photographs take --recipe small (make: SIZE=small)."
        )
    found = list(_path(Places(config.output.rstrip("/")), config.size))
    return [_on_photographs(step, config.data) if config.data else step for step in found]


def _path(places: Places, size: str) -> Iterator[Step]:
    order: tuple[tuple[str, Job[Any], str], ...] = (
        ("weights", weights.JOB, size),
        ("prepare stage 1", prepare.JOB, f"{size}_align"),
        ("prepare stage 2", prepare.JOB, f"{size}_instruct"),
        ("prepare test set", prepare.JOB, f"{size}_test"),
        ("embed training pictures", embed.JOB, f"{size}_train"),
        ("train stage 1: align", train.JOB, f"{size}_align"),
        ("train stage 2: instruct", train.JOB, f"{size}_instruct"),
        ("embed gallery", embed.JOB, f"{size}_gallery"),
        ("index gallery", index.JOB, size),
        ("train baseline", baseline.JOB, size),
        ("evaluate", evaluate.JOB, size),
    )
    for title, job, recipe in order:
        yield Step(title, job, recipe, getattr(job.recipes, recipe)(places))


def _on_photographs(step: Step, folder: str) -> Step:
    config = step.config
    if isinstance(config, PrepareConfig) and isinstance(config.corpus, CaptionedFolderConfig):
        return replace(step, config=config.replace(corpus=config.corpus.replace(path=folder)))
    if isinstance(config, EvaluateConfig):
        return replace(step, config=config.replace(data=folder))
    return step
