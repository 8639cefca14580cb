"""Pictures enter as large as words do."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from chatsearch.testing.training import tiny_training
from chatsearch.train import loop
from chatsearch.train.features import OnlineFeatures
from chatsearch.train.start import load_start


def sizes(config, *, fresh: bool) -> dict[str, float]:
    """Root mean square of the words' vectors and of both kinds of slots, over the pictures of the first step."""
    loop._join_group()
    start = load_start(config)
    builder, trainer = loop.assemble(config, start, fresh=fresh)
    searcher, (batch,) = trainer.searcher, builder.build(0, 0, 1)
    with torch.no_grad():
        block_ISH = searcher.image_inputs(*OnlineFeatures(start.vision, torch.device("cpu")).of(batch))
        parts = {
            "word": searcher.language.decoder.embed_tokens.weight,
            "cls": block_ISH[:, 0],
            "query": block_ISH[:, 1:],
        }
        return {name: float(part.square().mean().sqrt()) for name, part in parts.items()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("inputs")


def test_both_projectors_start_at_the_size_of_words(folder: Path) -> None:
    config = tiny_training(folder, scale_image_inputs=True)
    found = sizes(config, fresh=True)
    assert found["cls"] == pytest.approx(found["word"], rel=1e-4)
    assert found["query"] == pytest.approx(found["word"], rel=1e-4)


def test_they_are_left_alone_when_not_asked_for_or_when_a_checkpoint_follows(folder: Path) -> None:
    drawn = sizes(tiny_training(folder), fresh=True)
    assert drawn["cls"] > 2 * drawn["word"]
    assert sizes(tiny_training(folder, scale_image_inputs=True), fresh=False) == drawn
