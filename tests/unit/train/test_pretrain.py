"""The warm starts at a size that only shows that they learn; what they reach at full size is measured by the quickstart."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from chatsearch.corpora.scenes.draw import training_pictures
from chatsearch.corpora.scenes.vocabulary import BACKGROUNDS, COLOURS, KINDS
from chatsearch.errors import ConfigError
from chatsearch.model.config import SceneCnnConfig
from chatsearch.model.weights import load_weights
from chatsearch.train.config import LanguageTrainingConfig, TinyWeightsConfig, VisionTrainingConfig
from chatsearch.train.pretrain import build_tiny_weights
from chatsearch.train.pretrain_language import train_tokenizer
from chatsearch.train.pretrain_vision import collect, crowded_pictures, pretrain_vision

VISION = VisionTrainingConfig(
    encoder=SceneCnnConfig(width=32),
    num_crowded=800,
    crowded_epochs=2,
    num_pictures=400,
    epochs=2,
    num_test_pictures=100,
)
LANGUAGE = LanguageTrainingConfig(
    vocab_size=300, hidden_size=32, intermediate_size=64, num_layers=2, num_documents=120, steps=12, batch_size=4
)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Sums over threads round differently, and early training is chaotic."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_pictures_come_with_their_truth_and_mirror_with_it() -> None:
    drawn = list(training_pictures(3, 4, 64))
    pictures = collect(iter(drawn))
    for row, (pixels, scene) in enumerate(drawn):
        assert torch.equal(pictures.pixels_B3HW[row], torch.from_numpy(pixels.copy()).permute(2, 0, 1))
        assert BACKGROUNDS[pictures.background_B[row]] == scene.background
        for cell, group in enumerate(scene.cells()):
            kind, colour = (int(pictures.cells[name][row, cell]) for name in ("kind", "colour"))
            assert (
                (kind, colour) == (-1, -1)
                if group is None
                else (KINDS[kind], COLOURS[colour]) == (group.kind, group.colour)
            )
    mirrored = pictures.mirrored()
    assert torch.equal(mirrored.cells["kind"].reshape(4, 3, 3), pictures.cells["kind"].reshape(4, 3, 3).flip(2))
    assert torch.equal(mirrored.mirrored().pixels_B3HW, pictures.pixels_B3HW)


def test_crowded_pictures_hold_only_objects_of_the_training_split() -> None:
    for _, scene in crowded_pictures(0, 12, 64):
        assert 4 <= scene.num_objects <= 9
        assert {group.split for group in scene.groups} == {"train"}


def test_the_encoder_learns_and_is_the_same_for_the_same_seed() -> None:
    (first, scores), (second, _) = (pretrain_vision(VISION, progress=lambda _: None) for _ in range(2))
    assert set(scores) == {"presence", "kind", "colour", "texture", "size", "background"}
    # Far from the full size's accuracy, and clearly above guessing (63, 10 and 8 percent): this is a twentieth of a minute.
    assert scores["presence"] > 70
    assert scores["colour"] > 20
    assert scores["background"] > 60
    assert all(torch.equal(tensor, second.state_dict()[name]) for name, tensor in first.state_dict().items())


def test_a_vocabulary_that_the_text_cannot_fill_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"vocab_size is 5000\. Lower vocab_size"):
        train_tokenizer(LANGUAGE.replace(vocab_size=5000))


def test_weights_are_made_once_and_load(tmp_path: Path) -> None:
    config = TinyWeightsConfig(
        vision=VISION.replace(num_crowded=32, num_pictures=32, crowded_epochs=1, epochs=1),
        language=LANGUAGE,
        threads=1,
        output=str(tmp_path / "weights"),
    )
    artefact = build_tiny_weights(config)
    weights = load_weights(artefact.uri)
    assert weights.language_config.vocab_size == weights.tokenizer.text_vocab_size == 300
    assert weights.vision.fingerprint == artefact.manifest.facts["encoder_fingerprint"]
    assert build_tiny_weights(config).manifest == artefact.manifest
