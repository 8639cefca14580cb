"""From a corpus configuration to its reader."""

from __future__ import annotations

from chatsearch.corpora.base import Corpus
from chatsearch.corpora.config import CaptionedFolderConfig, ScenesConfig, WebDatasetConfig


def open_corpus(config: ScenesConfig | CaptionedFolderConfig | WebDatasetConfig) -> Corpus:
    """The reader of a corpus.

    Raises:
        MissingInputError: the folder, or the file that makes it a corpus, is not there.
    """
    if isinstance(config, ScenesConfig):
        from chatsearch.corpora.scenes.corpus import ScenesCorpus

        return ScenesCorpus(config)
    if isinstance(config, CaptionedFolderConfig):
        from chatsearch.corpora.captioned import CaptionedFolder

        return CaptionedFolder(config)
    from chatsearch.corpora.webdataset import WebDatasetFolder

    return WebDatasetFolder(config)
