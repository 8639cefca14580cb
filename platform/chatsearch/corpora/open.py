"""From a corpus configuration to its reader."""

from __future__ import annotations

from chatsearch.corpora.base import Corpus
from chatsearch.corpora.config import (
    CaptionedFolderConfig,
    Cc3mConfig,
    CorpusConfig,
    Mmc4Config,
    ParquetImagesConfig,
    PlainFolderConfig,
    ScenesConfig,
)


def open_corpus(config: CorpusConfig) -> Corpus:
    """The reader of a corpus.

    Raises:
        MissingInputError: the folder, or the file that makes it a corpus, is not there, or holds no pictures.
    """
    if isinstance(config, ScenesConfig):
        from chatsearch.corpora.scenes.corpus import ScenesCorpus

        return ScenesCorpus(config)
    if isinstance(config, CaptionedFolderConfig):
        from chatsearch.corpora.captioned import CaptionedFolder

        return CaptionedFolder(config)
    if isinstance(config, ParquetImagesConfig):
        from chatsearch.corpora.parquet_images import ParquetImages

        return ParquetImages(config)
    if isinstance(config, PlainFolderConfig):
        from chatsearch.corpora.plain_folder import PlainFolder

        return PlainFolder(config)
    if isinstance(config, Cc3mConfig):
        from chatsearch.corpora.cc3m import Cc3mTsv

        return Cc3mTsv(config)
    if isinstance(config, Mmc4Config):
        from chatsearch.corpora.mmc4 import Mmc4Folder

        return Mmc4Folder(config)
    from chatsearch.corpora.webdataset import WebDatasetFolder

    return WebDatasetFolder(config)
