"""Text to image on held-out documents in mid-training: the numbers, and that they leave no trace."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from chatsearch.corpora.config import ScenesCounts
from chatsearch.corpora.images import decode_rgb
from chatsearch.data.coin import Coin
from chatsearch.data.example import build_example
from chatsearch.data.shards import DocumentShards
from chatsearch.errors import InputError
from chatsearch.model.bundle import load_bundle
from chatsearch.testing.training import tiny_training, write_tiny_shards
from chatsearch.tracking.tracker import NullTracker
from chatsearch.train.config import TrainConfig, ValidationConfig
from chatsearch.train.run import train

NUM_PICTURES = 20


class Recorder(NullTracker):
    """Keeps what is logged, by step."""

    def __init__(self) -> None:
        self.series: dict[int, dict[str, float]] = {}

    def log_metrics(self, metrics, *, step=None) -> None:
        if step is not None:
            self.series[step] = dict(metrics)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("validation")
    tiny_training(folder)
    write_tiny_shards(str(folder / "val"), ScenesCounts(caption=NUM_PICTURES), split="val")
    return folder


def configure(folder: Path, name: str, **changes) -> TrainConfig:
    return tiny_training(folder, log_every=100, output=str(folder / name), **changes)


def test_recall_is_that_of_the_finished_model_and_the_run_is_the_one_without(folder: Path) -> None:
    recorder = Recorder()
    validation = ValidationConfig(shards=str(folder / "val"), every=4)
    looked = train(configure(folder, "looked", validation=validation), recorder)
    blind = train(configure(folder, "blind"))
    assert looked.fingerprint == blind.fingerprint
    ours, theirs = (Path(artefact.uri, "searcher.safetensors").read_bytes() for artefact in (looked, blind))
    assert ours == theirs, "looking changes no bit"

    assert sorted(recorder.series) == [4, 6], "every fourth step and the last"
    found = recorder.series[6]
    ranks, loss = ranks_by_hand(looked.uri, DocumentShards.open(str(folder / "val")))
    for depth in (1, 5, 10):
        assert found[f"val_R@{depth}"] == pytest.approx(100.0 * np.mean(ranks <= depth))
    assert found["val_image_loss"] == pytest.approx(loss, abs=1e-4)


@torch.no_grad()
def ranks_by_hand(model: str, shards: DocumentShards) -> tuple[np.ndarray, float]:
    """Ranks and image loss, one document at a time, without rows or batches."""
    bundle = load_bundle(model)
    searcher, queries, pictures = bundle.searcher.eval(), [], []
    for document in shards.documents():
        example = build_example(
            document,
            bundle.tokenizer,
            searcher.config.num_queries,
            max_length=320,
            answer_only=False,
            coin=Coin(0, document.document_id, 0),
            caption_first=1.0,
        )
        (image,) = example.image_hashes
        pixels = bundle.vision.preprocess(decode_rgb(shards.images.get(image)))
        seen = bundle.vision(pixels[None])
        at = torch.from_numpy(example.image_positions.astype(np.int64))
        hidden_RLH = searcher(
            torch.from_numpy(example.input_ids.astype(np.int64))[None],
            torch.arange(len(example))[None],
            image_row_I=torch.zeros_like(at),
            image_col_I=at,
            cls_ID=seen.cls_BD,
            tokens_ITE=seen.tokens_BTE,
        )
        queries.append(searcher.query_embedding(searcher.image_states(hidden_RLH, torch.zeros_like(at), at)))
        pictures.append(searcher.gallery_embedding(seen.cls_BD))
    scores_QN = torch.cat(queries) @ torch.cat(pictures).T
    loss = torch.nn.functional.cross_entropy(scores_QN * searcher.scale, torch.arange(len(scores_QN)))
    return (scores_QN >= scores_QN.diagonal()[:, None]).sum(1).numpy(), float(loss)


def test_training_documents_are_no_validation(folder: Path) -> None:
    validation = ValidationConfig(shards=str(folder / "shards"))
    with pytest.raises(InputError, match="where only val is allowed"):
        train(configure(folder, "same", validation=validation))
