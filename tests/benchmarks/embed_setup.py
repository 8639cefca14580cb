"""What embedding is measured on: towers with random weights, photographs in tars and shards, scenes in shards.

Weights decide what a tower sees, not how long it takes.
"""

from __future__ import annotations

import io
import itertools
import tarfile
import time
from dataclasses import dataclass
from pathlib import Path

from chatsearch.corpora.base import Sample
from chatsearch.corpora.config import ScenesConfig, ScenesCounts, WebDatasetConfig
from chatsearch.corpora.open import open_corpus
from chatsearch.model.bundle import save_bundle
from chatsearch.model.config import EfficientNetLite0Config, SceneCnnConfig, VisionConfig
from chatsearch.testing.tiny import tiny_config, tiny_searcher, tiny_tokenizer, tiny_vision
from chatsearch.types import Kind

from tests.benchmarks.data_corpus import records, write_shards

SMALL: VisionConfig = SceneCnnConfig()
LARGE: VisionConfig = EfficientNetLite0Config()
NUM_SCENES = 2048
PER_TAR = 250


@dataclass(frozen=True)
class Places:
    """Where things lie below one folder."""

    folder: Path
    num_photographs: int
    tars_to_shards_s: float
    """Seconds from tars to document shards, every picture decoded once to be checked, in one process."""

    def path(self, name: str) -> str:
        """``small`` and ``large`` towers, ``scenes`` and ``photographs`` shards, ``tars``, or a place to write to."""
        return str(self.folder / name)


def write_tower(uri: str, config: VisionConfig, *, seed: int = 0) -> None:
    """A bundle around a tower with random weights; its M_Q depends on the seed, the tower does not."""
    tokenizer = tiny_tokenizer()
    shape = tiny_config(tokenizer.text_vocab_size).replace(vision=config)
    save_bundle(uri, tiny_searcher(shape, seed=seed), tiny_vision(shape), tokenizer, inputs={"seed": str(seed)})


def write_tars(folder: Path) -> int:
    """The photographs as img2dataset writes them. Returns how many."""
    folder.mkdir()
    distinct = {name: data for record in records() for name, data in record.images.items()}
    numbered = enumerate(distinct.values())
    for number in itertools.count():
        some = list(itertools.islice(numbered, PER_TAR))
        if not some:
            return len(distinct)
        with tarfile.open(folder / f"{number:05d}.tar", "w") as tar:
            for key, data in some:
                for suffix, content in (("jpg", data), ("txt", b"a photograph")):
                    info = tarfile.TarInfo(f"{key:09d}.{suffix}")
                    info.size = len(content)
                    tar.addfile(info, io.BytesIO(content))
    raise AssertionError("the loop ends where the pictures do")


def make_places(folder: Path) -> Places:
    """Make all of it."""
    write_tower(str(folder / "small"), SMALL)
    write_tower(str(folder / "large"), LARGE)
    scenes = open_corpus(ScenesConfig(kinds=ScenesCounts(caption=NUM_SCENES)))
    drawn = (record for partition in scenes.partitions() for record in scenes.read(partition))
    write_shards(str(folder / "scenes"), (record for record in drawn if isinstance(record, Sample)))
    num_photographs = write_tars(folder / "tars")
    begin = time.perf_counter()
    tars = open_corpus(WebDatasetConfig(path=str(folder / "tars"), emit=(Kind.GALLERY,)))
    write_shards(
        str(folder / "photographs"), (record for partition in tars.partitions() for record in tars.read(partition))
    )
    return Places(folder, num_photographs, time.perf_counter() - begin)
