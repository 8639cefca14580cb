"""Corrupt pictures, one in a hundred: each is set aside with its key, and what it costs (goal D8).

Two places meet them: preparing, and training's own decoding of what preparing has let pass. Shares of a percent drown in the
noise of turns, so the cost is accounted: processor time of the same work on clean and on corrupt data, small piece by small piece.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from unittest import mock

from chatsearch.corpora.base import Sample
from chatsearch.corpora.config import CaptionedFolderConfig
from chatsearch.corpora.open import open_corpus
from chatsearch.data.config import LoaderConfig, PrepareConfig
from chatsearch.data.part import write_part
from chatsearch.data.steps import StepBuilder
from chatsearch.session import ray_session
from chatsearch.storage import Folder
from chatsearch.types import Document, content_hash

from tests.benchmarks.data_corpus import Corpora, records, write_shards
from tests.benchmarks.data_ours import step_builder
from tests.benchmarks.harness import Result, judge

EVERY = 100
AT_LEAST = 0.98
BATCH = 64
STEPS_A_PIECE = 8
NUM_PIECES = 40
PREPARE_ROUNDS = 3


def corrupt(corpora: Corpora, command: str) -> Iterator[Result]:
    """Good pictures a second of processor time, against clean data; missed where any skip has no key."""
    clean = list(records())
    broken = [_broken(sample) if number % EVERY == EVERY // 2 else sample for number, sample in enumerate(clean)]
    lost = {old.document.document_id for old, new in zip(clean, broken, strict=True) if old is not new}
    with ray_session():
        yield _preparing(corpora.folder, clean, broken, command)
        yield _training(corpora, broken, lost, command)


def _broken(sample: Sample) -> Sample:
    """The same with its picture cut in half."""
    ((name, data),) = sample.images.items()
    data = data[: len(data) // 2]
    segments = tuple(replace(s, image=content_hash(data)) if s.image == name else s for s in sample.document.segments)
    return Sample(replace(sample.document, segments=segments), {content_hash(data): data})


def _preparing(folder: Path, clean: Sequence[Sample], broken: Sequence[Sample], command: str) -> Result:
    from chatsearch.data.prepare import prepare

    configs = {name: _captioned(folder / f"raw-{name}", held) for name, held in (("clean", clean), ("broken", broken))}
    lost = {f"{n:06d}" for n, (old, new) in enumerate(zip(clean, broken, strict=True)) if old is not new}
    made = prepare(PrepareConfig(corpus=configs["broken"], output=str(folder / "prepared")))
    lines = [
        json.loads(line)
        for name in made.folder.list()
        if name.startswith("rejected/")
        for line in made.folder.read_bytes(name).splitlines()
    ]
    found = sorted(line["key"] for line in lines)
    readers = {name: open_corpus(config) for name, config in configs.items()}
    target, pieces = Folder(str(folder / "piece")), []
    for number, partition in enumerate(readers["clean"].partitions() * PREPARE_ROUNDS):

        def write(name: str, partition=partition) -> int:
            return write_part(target, 0, readers[name].read(partition)).num_documents

        pieces.append(_cpu_ratio(write, number))
    note = (
        f"{len(found)} of {len(lost)} corrupt pictures named in rejected/, {made.manifest.counts['rejected']} counted"
    )
    return _result("D8-prepare", pieces, sorted(lost) == found, note, command)


def _captioned(folder: Path, samples: Sequence[Sample]) -> CaptionedFolderConfig:
    """The samples as a captioned folder, numbered."""
    (folder / "images").mkdir(parents=True)
    lines = []
    for number, sample in enumerate(samples):
        (data,) = sample.images.values()
        (folder / "images" / f"{number:06d}.jpg").write_bytes(data)
        captions = [segment.text for segment in sample.document.segments if segment.text]
        lines.append(json.dumps({"id": f"{number:06d}", "file": f"images/{number:06d}.jpg", "captions": captions}))
    (folder / "captions.jsonl").write_text("\n".join(lines) + "\n")
    return CaptionedFolderConfig(path=str(folder))


def _training(corpora: Corpora, broken: Sequence[Sample], lost: set[str], command: str) -> Result:
    uri = corpora.path("broken")
    with mock.patch("chatsearch.data.part.check_image", return_value=(1, 1)):  # else preparing sets them aside
        write_shards(uri, broken)
    builders = {
        name: step_builder(shards, corpora.tokenizer, batch_size=BATCH, pictures=True)
        for name, shards in (("clean", corpora.path("photographs")), ("broken", uri))
    }
    found, drawn = _skipped(builders["broken"], lost, num_steps=-(-len(broken) // BATCH))
    pieces = []
    for number in range(NUM_PIECES):
        steps = range(number * STEPS_A_PIECE, (number + 1) * STEPS_A_PIECE)

        def build(name: str, steps=steps) -> int:
            return sum(batch.num_images for step in steps for batch in builders[name].build(step, 0, 1))

        if number == 0:
            build("clean"), build("broken")
        pieces.append(_cpu_ratio(build, number))
    note = f"{len(found)} of {len(drawn)} draws of corrupt pictures named in Batch.rejected, through Ray Data"
    return _result("D8-train", pieces, found == drawn, note, command)


def _skipped(builder: StepBuilder, lost: set[str], num_steps: int) -> tuple[list[str], list[str]]:
    """Documents that the loader says it has left out, and those that it had to."""
    from chatsearch.data.stream import rank_batches

    shards, indices = builder.sources[0]
    documents: dict[str, Document] = {document.document_id: document for document in shards.documents()}
    opening = {f"Document {name!r}: ": name for name in documents}
    reasons = [
        reason
        for _, batches in rank_batches(builder, 0, 1, start=0, stop=num_steps, loader=LoaderConfig(num_tasks=2))
        for batch in batches
        for reason in batch.rejected
    ]
    drawn = [
        shards.document(int(indices[sample.document])).document_id
        for step in range(num_steps)
        for sample in builder.plan.step(step)
    ]
    found = [opening.get(reason.split(": ")[0] + ": ", reason) for reason in reasons]
    return sorted(found), sorted(name for name in drawn if name in lost)


def _cpu_ratio(work: Callable[[str], int], number: int) -> float:
    """Good pictures a processor second of ``work("broken")`` over those of ``work("clean")``."""
    rates: dict[str, float] = {}
    for name in ("clean", "broken") if number % 2 else ("broken", "clean"):
        begin = time.process_time()
        num_good = work(name)
        rates[name] = num_good / (time.process_time() - begin)
    return rates["broken"] / rates["clean"]


def _result(id: str, pieces: Sequence[float], complete: bool, note: str, command: str) -> Result:
    result = judge(
        id,
        pieces,
        goal="1 % corrupt pictures: the run ends, each skip counted with its key, good pictures/s >= 0.98x clean",
        command=command,
        at_least=AT_LEAST,
        note=f"{note}; by processor time of {len(pieces)} pieces",
    )
    return result if complete else replace(result, status="missed")
