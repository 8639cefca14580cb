"""The same documents in every loader's own format.

Photographs are the sample's (``CHATSEARCH_SAMPLE_DATA``), else drawn scenes. Pages, i.e. interleaved documents, take their
pictures and sentences from them.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from chatsearch.config import Config
from chatsearch.corpora.base import Rejected, Sample
from chatsearch.corpora.config import CaptionedFolderConfig, CorpusConfig, ScenesConfig, ScenesCounts
from chatsearch.corpora.open import open_corpus
from chatsearch.data.part import commit_shards, write_part
from chatsearch.data.shards import DocumentShards
from chatsearch.data.tokenizer import train_byte_bpe
from chatsearch.kinds import DOCUMENT_SHARDS
from chatsearch.manifest import begin_output
from chatsearch.storage import Folder
from chatsearch.types import Document, Kind, Segment

from tests.benchmarks.peers.environment import ROOT
from tests.sample_data import sample_folder

VOCABULARY = 8000
NUM_PAGES = 4000
MORE_IMAGES = 3.1
"""1 + Poisson(3.1) pictures a page: 29.9 million in 7.3 million pages (mmc4, arXiv 2304.06939, mmc4-core)."""
SENTENCES = 5
"""A picture: with those of the photographs, some 60 tokens, near the 333 a page of mmc4-core."""


class Made(Config):
    """Names what a benchmark writes."""

    name: str


def source() -> CorpusConfig:
    """The photographs, or scenes where there are none."""
    folder = sample_folder() / "captioned"
    if (folder / "captions.jsonl").is_file():
        return CaptionedFolderConfig(path=str(folder), split="train")
    return ScenesConfig(kinds=ScenesCounts(caption=3000), image_size=256)


def records() -> Iterator[Sample]:
    """The captioned pictures, in the corpus' order."""
    corpus = open_corpus(source())
    for partition in corpus.partitions():
        yield from (record for record in corpus.read(partition) if isinstance(record, Sample))


def write_shards(uri: str, samples: Iterable[Sample | Rejected], *, per_part: int = 256) -> None:
    """Finished document shards."""
    output = begin_output(uri, DOCUMENT_SHARDS, Made(name=Path(uri).name), {})
    held = list(samples)
    starts = range(0, len(held), per_part)
    parts = [write_part(output.folder, n, held[at : at + per_part]) for n, at in enumerate(starts)]
    commit_shards(output, "benchmark", parts)


def pages(samples: Sequence[Sample], num_pages: int) -> Iterator[Sample]:
    """Interleaved documents."""
    draw, counts = random.Random(0), 1 + np.random.default_rng(0).poisson(MORE_IMAGES, num_pages)
    sentences = [s.text for sample in samples for s in sample.document.segments if s.text]
    for number, count in enumerate(counts.tolist()):
        segments: list[Segment] = []
        images: dict[str, bytes] = {}
        for sample in draw.sample(samples, count):
            ((name, data),) = sample.images.items()
            images[name] = data
            segments += [Segment(image=name), *(Segment(text) for text in draw.choices(sentences, k=SENTENCES))]
        yield Sample(Document(f"page-{number}", Kind.INTERLEAVED, tuple(segments), "benchmark", "train"), images)


@dataclass(frozen=True)
class Corpora:
    """Where things lie below one folder. Paths of a peer's are missing where it cannot run."""

    folder: Path
    seconds: dict[str, float]
    """To make each of the formats."""

    @property
    def tokenizer(self) -> str:
        """Byte BPE trained on the captions."""
        return str(self.folder / "tokenizer")

    def path(self, name: str) -> str:
        """Of one format: ``photographs``, ``pages`` and the peers' copies of them."""
        return str(self.folder / name)

    @property
    def num_photographs(self) -> int:
        """Captioned pictures."""
        return DocumentShards.open(self.path("photographs")).num_documents


def make_corpora(folder: Path) -> Corpora:
    """Our own formats."""
    taken: dict[str, float] = {}
    corpora = Corpora(folder, taken)
    begin = time.perf_counter()
    samples = list(records())
    write_shards(corpora.path("photographs"), samples)
    taken["photographs"] = time.perf_counter() - begin
    texts = [s.text for sample in samples for s in sample.document.segments if s.text]
    train_byte_bpe(texts, VOCABULARY).save(Folder(corpora.tokenizer))
    write_shards(corpora.path("pages"), pages(samples, NUM_PAGES))
    return corpora


def convert(corpora: Corpora, python: str, module: str, of: str, **settings: object) -> str:
    """Have a peer write shards in its own format. Returns where.

    Raises:
        RuntimeError: it cannot, with the last of what it says.
    """
    target = corpora.folder / f"{of}-{module.rpartition('.')[2]}"
    target.mkdir()
    told = json.dumps({"convert": corpora.path(of), "folder": str(target), **settings})
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "platform")])}
    begin = time.perf_counter()
    done = subprocess.run(
        [python, "-m", module, told], capture_output=True, text=True, cwd=ROOT, env=environment, check=False
    )
    corpora.seconds[target.name] = time.perf_counter() - begin
    if done.returncode:
        raise RuntimeError(f"{module} could not convert: {done.stderr.strip()[-400:]}")
    return str(target)
