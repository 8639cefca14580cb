"""The ``prepare`` job: a corpus becomes document shards, one Ray task a part.

Each part is written whole with its marker last, so an interrupted run is continued at the first unfinished part and the
finished shards hold the same bytes as those of an unbroken run.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import Any

import ray
from ray.data import DataContext, TaskPoolStrategy

from chatsearch.corpora.base import Corpus, Partition, Rejected, Sample
from chatsearch.corpora.config import CorpusConfig, ScenesConfig
from chatsearch.corpora.open import open_corpus
from chatsearch.data.config import PrepareConfig
from chatsearch.data.part import Part, commit_shards, finished_part, write_part
from chatsearch.errors import ConfigError, InputError, TooManyRejectedError, named_cause
from chatsearch.kinds import DOCUMENT_SHARDS
from chatsearch.manifest import Artefact, begin_output
from chatsearch.progress import progress
from chatsearch.storage import Folder, resolve


def prepare(config: PrepareConfig, session: Callable[[], AbstractContextManager[None]] = nullcontext) -> Artefact:
    """Write the shards of a corpus, or what is still missing of them.

    Args:
        config: what to write.
        session: entered when there is something to make, and before anything changes: mostly
            :func:`chatsearch.session.ray_session`. By default Ray Data starts one with its own defaults unless Ray is running.

    Returns:
        The finished artefact; the one that is there already when it was made from the same corpus in the same way.

    Raises:
        ConfigError: no output is named.
        MissingInputError: the corpus is not there.
        InputError: the corpus holds no document, or two documents of one id.
        TooManyRejectedError: more records were set aside than ``max_rejected_fraction`` allows.
        ConflictingOutputError: the output holds something else.
    """
    if not config.output:
        raise ConfigError("No output is named. Set it with --set output=URI.")
    corpus = open_corpus(config.corpus)
    inputs = {"corpus": corpus.fingerprint()}
    with ExitStack() as stack:
        output = begin_output(
            config.output,
            DOCUMENT_SHARDS,
            config,
            inputs,
            overwrite=config.overwrite,
            before=lambda: stack.enter_context(session()),
        )
        if output.finished is not None:
            return output.finished
        groups = _groups(corpus.partitions(), config.partitions_per_part)
        parts = _write_parts(config, output.folder, groups)
    _check_totals(config, parts)
    return commit_shards(output, corpus.name, parts)


def _groups(partitions: Sequence[Partition], size: int) -> list[list[Partition]]:
    return [list(partitions[start : start + size]) for start in range(0, len(partitions), size)]


def _write_parts(config: PrepareConfig, folder: Folder, groups: Sequence[Sequence[Partition]]) -> list[Part]:
    """Markers of all parts in order, after writing those that are not finished."""
    sizes = folder.sizes()
    finished = {n: part for n in range(len(groups)) if (part := finished_part(folder, n, sizes)) is not None}
    open_parts = [n for n in range(len(groups)) if n not in finished]
    with progress("prepare", len(groups), "parts", done=len(finished)) as advance:
        if open_parts:
            for part in _run(config, folder, {n: groups[n] for n in open_parts}):
                finished[part.part] = part
                advance(1)
    return [finished[n] for n in range(len(groups))]


def _located(corpus: CorpusConfig) -> CorpusConfig:
    """The same with an absolute path: tasks may run in another folder than this process."""
    return corpus if isinstance(corpus, ScenesConfig) else corpus.replace(path=resolve(corpus.path))


def _run(config: PrepareConfig, folder: Folder, groups: dict[int, Sequence[Partition]]) -> Iterator[Part]:
    """Write parts on the cluster; yields each marker as its task ends."""
    rows = [
        {"part": n, "partitions": json.dumps([[p.index, dict(p.payload)] for p in group])}
        for n, group in groups.items()
    ]
    context = DataContext.get_current().copy()
    context.enable_progress_bars = False  # ours counts parts, whatever Ray Data makes of them
    context.raise_original_map_exception = True  # else the cause is lost between processes
    with DataContext.current(context):
        dataset = ray.data.from_items(rows, override_num_blocks=len(rows)).map(
            functools.partial(_write, corpus=_located(config.corpus), uri=folder.uri),
            compute=TaskPoolStrategy(),
            num_cpus=config.cpus_per_task,
        )
        try:
            for row in dataset.iter_rows():
                yield Part.model_validate_json(row["marker"])
        except Exception as error:
            raise named_cause(error) or error from error


def _write(row: dict[str, Any], *, corpus: CorpusConfig, uri: str) -> dict[str, Any]:
    """One task: read the partitions of a part and write it."""
    reader = open_corpus(corpus)
    partitions = [Partition(index, payload) for index, payload in json.loads(row["partitions"])]
    part = write_part(Folder(uri), row["part"], _records(reader, partitions))
    return {"marker": part.model_dump_json()}


def _records(reader: Corpus, partitions: Sequence[Partition]) -> Iterator[Sample | Rejected]:
    for partition in partitions:
        yield from reader.read(partition)


def _check_totals(config: PrepareConfig, parts: Sequence[Part]) -> None:
    num_rejected, num_documents = sum(p.num_rejected for p in parts), sum(p.num_documents for p in parts)
    num_records = num_rejected + num_documents
    reasons = "; ".join([reason for part in parts for reason in part.first_reasons][:3])
    where = Folder(config.output).path("rejected")
    if num_rejected > config.max_rejected_fraction * num_records:
        raise TooManyRejectedError(
            f"{num_rejected} of {num_records} records were set aside, the limit is {config.max_rejected_fraction:.1%}. First: "
            f"{reasons}. All of them are listed in {where}. Repair the corpus, or allow more with --set max_rejected_fraction=1."
        )
    if not num_documents:
        set_aside = f" {num_rejected} records were set aside ({reasons}), see {where}." if num_rejected else ""
        raise InputError(f"The corpus gives no document.{set_aside} Check its path, its split and the kinds asked for.")
