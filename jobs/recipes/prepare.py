"""Corpora of the ``prepare`` job."""

from __future__ import annotations

from chatsearch.corpora.config import (
    CaptionedFolderConfig,
    Mmc4Config,
    ParquetImagesConfig,
    PlainFolderConfig,
    ScenesConfig,
    ScenesCounts,
    WebDatasetConfig,
)
from chatsearch.data.config import PrepareConfig
from chatsearch.types import Kind

from jobs.recipes.places import GALLERY, PAPER, SMALL, TINY, Places

SEED = 7
PHOTOGRAPHS = "data/captioned"
"""Where a captioned folder is looked for; another one: --set corpus.path=FOLDER."""


def tiny_align(places: Places = TINY) -> PrepareConfig:
    """Scenes, stage 1: captions and interleaved documents."""
    return PrepareConfig(
        corpus=ScenesConfig(seed=SEED, split="train", kinds=ScenesCounts(caption=6000, interleaved=1000)),
        output=places.align_shards,
    )


def tiny_instruct(places: Places = TINY) -> PrepareConfig:
    """Scenes, stage 2: questions, edits and the three ChatSearch sub-tasks."""
    return PrepareConfig(
        corpus=ScenesConfig(
            seed=SEED,
            split="train",
            kinds=ScenesCounts(question=800, edit=3000, chatsearch_t=2500, chatsearch_i=4000, chatsearch_m=3000),
        ),
        output=places.instruct_shards,
    )


def tiny_test(places: Places = TINY) -> PrepareConfig:
    """Scenes, held out: ChatSearch dialogues and their gallery with near-misses."""
    return PrepareConfig(
        corpus=ScenesConfig(
            seed=SEED,
            split="test",
            kinds=ScenesCounts(question=100, chatsearch_t=200, chatsearch_i=200, chatsearch_m=200, gallery=200),
        ),
        output=places.test_shards,
    )


def small_align(places: Places = SMALL) -> PrepareConfig:
    """Photographs, stage 1: captions of the training split."""
    return PrepareConfig(
        corpus=CaptionedFolderConfig(path=PHOTOGRAPHS, split="train", emit=(Kind.CAPTION,)), output=places.align_shards
    )


def small_instruct(places: Places = SMALL) -> PrepareConfig:
    """Photographs, stage 2: "find ..." requests and captioning questions from templates."""
    return PrepareConfig(
        corpus=CaptionedFolderConfig(path=PHOTOGRAPHS, split="train", emit=(Kind.QUESTION, Kind.T)),
        output=places.instruct_shards,
    )


def small_test(places: Places = SMALL) -> PrepareConfig:
    """Photographs, held out: the test split as a gallery, with "find ..." requests and captioning questions."""
    return PrepareConfig(
        corpus=CaptionedFolderConfig(path=PHOTOGRAPHS, split="test", emit=(Kind.T, Kind.QUESTION, Kind.GALLERY)),
        output=places.test_shards,
    )


def paper_captions(places: Places = PAPER) -> PrepareConfig:
    """CC3M as img2dataset writes it: the caption stream of stage 1."""
    return PrepareConfig(corpus=WebDatasetConfig(path="data/cc3m"), output=places.at("shards-cc3m"))


def paper_interleaved(places: Places = PAPER) -> PrepareConfig:
    """mmc4-core as published, with the pictures by name in ``data/mmc4/images``: the interleaved stream of stage 1."""
    return PrepareConfig(
        corpus=Mmc4Config(path="data/mmc4", seed=SEED),
        output=places.at("shards-mmc4"),
        max_rejected_fraction=0.9,  # every picture whose link has died counts as a record of its own
    )


def folder_gallery(places: Places = GALLERY) -> PrepareConfig:
    """All pictures below a folder as gallery items, with no captions: --set corpus.path=FOLDER."""
    return PrepareConfig(corpus=PlainFolderConfig(path="data/pictures"), output=places.at("shards"))


def parquet_gallery(places: Places = GALLERY) -> PrepareConfig:
    """Pictures in a column of Parquet files as gallery items: --set corpus.path=FOLDER --set corpus.id=COLUMN."""
    return PrepareConfig(
        corpus=ParquetImagesConfig(path="data/parquet", caption="", split="test", emit=(Kind.GALLERY,)),
        output=places.at("shards"),
    )


def tars_gallery(places: Places = GALLERY) -> PrepareConfig:
    """Pictures in webdataset tars as gallery items: --set corpus.path=FOLDER."""
    return PrepareConfig(
        corpus=WebDatasetConfig(path="data/tars", split="test", emit=(Kind.GALLERY,)), output=places.at("shards")
    )
