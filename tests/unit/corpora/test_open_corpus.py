from __future__ import annotations

import subprocess
import sys

import pytest
from chatsearch.config import apply_overrides
from chatsearch.corpora.config import (
    CaptionedFolderConfig,
    Cc3mConfig,
    CorpusConfig,
    Mmc4Config,
    ParquetImagesConfig,
    PlainFolderConfig,
    ScenesConfig,
    WebDatasetConfig,
)
from chatsearch.errors import UnknownNameError
from pydantic import BaseModel, ValidationError


class Holder(BaseModel):
    corpus: CorpusConfig


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"type": "scenes"}, ScenesConfig),
        ({"type": "captioned_folder", "path": "x"}, CaptionedFolderConfig),
        ({"type": "webdataset", "path": "x"}, WebDatasetConfig),
        ({"type": "parquet_images", "path": "x"}, ParquetImagesConfig),
        ({"type": "plain_folder", "path": "x"}, PlainFolderConfig),
        ({"type": "cc3m", "path": "x.tsv"}, Cc3mConfig),
        ({"type": "mmc4", "path": "x"}, Mmc4Config),
    ],
)
def test_type_picks_the_config(values: dict, expected: type) -> None:
    assert isinstance(Holder(corpus=values).corpus, expected)


def test_settings_reach_the_counts() -> None:
    config = apply_overrides(ScenesConfig(), ["kinds.chatsearch_t=7", "split=test"])
    assert (config.kinds.chatsearch_t, config.split) == (7, "test")
    with pytest.raises(UnknownNameError, match="chatsearch_t"):
        apply_overrides(ScenesConfig(), ["kinds.chatsearch_x=7"])


@pytest.mark.parametrize(
    "values", [{"split": "dev"}, {"image_size": 8}, {"kinds": {"caption": -1}}, {"kinds": {"edit_": 1}}]
)
def test_wrong_values_are_refused(values: dict) -> None:
    with pytest.raises(ValidationError):
        ScenesConfig(**values)


def test_config_imports_nothing_heavy() -> None:
    code = (
        "import sys, chatsearch.corpora.config, chatsearch.corpora.open\n"
        "print([n for n in ('torch', 'ray', 'faiss', 'PIL', 'numpy', 'pyarrow') if n in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "[]"
