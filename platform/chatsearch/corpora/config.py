"""Which corpus to read. Importing this costs nothing beyond pydantic."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from chatsearch.config import Config, runtime
from chatsearch.errors import ConfigError
from chatsearch.types import Kind

Count = Annotated[int, Field(ge=0)]


class ScenesCounts(Config):
    """How many documents of each kind the scenes world makes."""

    caption: Count = 0
    interleaved: Count = 0
    text: Count = 0
    question: Count = 0
    edit: Count = 0
    chatsearch_t: Count = 0
    chatsearch_i: Count = 0
    chatsearch_m: Count = 0
    gallery: Count | None = None
    """None: no gallery. Else targets, references and near-misses of the three sub-tasks, and so many more pictures nobody asks for."""


class ScenesConfig(Config):
    """The synthetic scenes world: a pure function of these values."""

    type: Literal["scenes"] = "scenes"
    seed: int = 0
    split: Literal["train", "val", "test"] = "train"
    kinds: ScenesCounts = ScenesCounts(caption=1000)
    image_size: int = Field(64, ge=48, le=512)
    """Pixels a side."""
    num_distractors: int = Field(16, ge=0, le=32)
    """Near-misses in the gallery for each ChatSearch target."""


class _WithMetadata(Config):
    """A corpus whose records may carry more than picture and text."""

    metadata: tuple[str, ...] = ()
    """Names of values that become attributes of the documents and travel into the gallery."""

    def content(self) -> dict[str, Any]:
        """Without the names where there are none, so that shards of earlier versions stay what they are."""
        content = super().content()
        if not self.metadata:
            del content["metadata"]
        return content


class CaptionedFolderConfig(_WithMetadata):
    """A folder with ``captions.jsonl``; ``path`` may be local or ``s3://``. ``metadata`` names further keys of its lines."""

    type: Literal["captioned_folder"] = "captioned_folder"
    path: str = runtime(...)
    """Where the folder lies, which does not matter to what is made of it."""
    split: str | None = None
    """Only records of this split; None reads all. Records without a split count as ``train``."""
    emit: tuple[Literal[Kind.CAPTION, Kind.QUESTION, Kind.T, Kind.GALLERY], ...] = (Kind.CAPTION,)
    """What to make of each record: captions, captioning questions, "find ..." requests, gallery items."""
    seed: int = 0
    """Draws the templates and captions of requests and questions."""
    records_per_partition: int = Field(256, ge=1)


class WebDatasetConfig(_WithMetadata):
    """A folder of tars as img2dataset writes them (``key.jpg``, ``key.txt``, ``key.json``), or one such tar. ``metadata`` names keys
    of ``key.json``."""

    type: Literal["webdataset"] = "webdataset"
    path: str = runtime(...)
    """Where the tars lie, which does not matter to what is made of them."""
    split: str = "train"
    """The split that all documents of this folder get."""
    emit: tuple[Literal[Kind.CAPTION, Kind.GALLERY], ...] = (Kind.CAPTION,)


class ParquetImagesConfig(_WithMetadata):
    """A folder of Parquet files with the pictures in a column, or one such file. ``metadata`` names further columns."""

    type: Literal["parquet_images"] = "parquet_images"
    path: str = runtime(...)
    """Where the files lie, which does not matter to what is made of them."""
    image: str = Field("image", min_length=1)
    """Column of the encoded pictures: binary, or a struct with ``bytes`` as Hugging Face datasets have it."""
    id: str = ""
    """Column of the ids; empty takes file and row number."""
    caption: str = "caption"
    """Column of the captions, one or a list a row; empty where there are none."""
    split: str = "train"
    """The split that all documents get."""
    emit: tuple[Literal[Kind.CAPTION, Kind.GALLERY], ...] = (Kind.CAPTION,)
    records_per_partition: int = Field(1024, ge=1)
    """At least so many rows: a row group is never divided."""

    @model_validator(mode="after")
    def _check(self) -> ParquetImagesConfig:
        if not self.caption and Kind.CAPTION in self.emit:
            raise ConfigError(
                "caption='' names no column, so no captions can be made. Say emit=[\"gallery\"], or name one."
            )
        return self


class PlainFolderConfig(Config):
    """A folder of pictures with nothing beside them, each a gallery item under its path."""

    type: Literal["plain_folder"] = "plain_folder"
    path: str = runtime(...)
    """Where the folder lies, which does not matter to what is made of it."""
    split: str = "test"
    """The split that all documents get."""
    records_per_partition: int = Field(1024, ge=1)


class Cc3mConfig(Config):
    """One TSV with the columns ``caption`` and ``image``, and a folder of pictures."""

    type: Literal["cc3m"] = "cc3m"
    path: str = runtime(...)
    """The TSV. Where it lies does not matter to what is made of it."""
    images: str = runtime("images")
    """Folder of the pictures, to which ``image`` is relative; itself relative to the TSV's folder, or absolute, or a URI."""
    split: str = "train"
    """The split that all documents get."""
    emit: tuple[Literal[Kind.CAPTION, Kind.GALLERY], ...] = (Kind.CAPTION,)
    records_per_partition: int = Field(1024, ge=1)


class Mmc4Config(Config):
    """A folder of mmc4 shards as published (``docs_no_face_shard_0_v3.jsonl.zip`` or ``.jsonl``), or one of them."""

    type: Literal["mmc4"] = "mmc4"
    path: str = runtime(...)
    """Where the shards lie, which does not matter to what is made of them."""
    images: str = runtime("images")
    """Folder of the pictures by ``image_name``; relative to the shards' folder, or absolute, or a URI. ``{shard}`` in it
    stands for the shard's name: mmc4's own download script writes ``{shard}_images``."""
    split: str = "train"
    """The split that all documents get."""
    min_similarity: float = Field(-1.0, ge=-1.0, le=1.0)
    """A picture that is less similar to the sentence it is paired with is left out; the paper names no limit."""
    seed: int = 0
    """Draws which pictures come before their sentence and which after it."""


CorpusConfig = Annotated[
    ScenesConfig
    | CaptionedFolderConfig
    | WebDatasetConfig
    | ParquetImagesConfig
    | PlainFolderConfig
    | Cc3mConfig
    | Mmc4Config,
    Field(discriminator="type"),
]
