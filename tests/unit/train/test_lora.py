"""A stage that trains adapters: what it moves, what it exports, and that it goes on where it was."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from chatsearch.errors import ConfigError
from chatsearch.model.bundle import load_bundle
from chatsearch.model.config import LoraConfig
from chatsearch.model.weights import load_weights, start_searcher
from chatsearch.testing.training import tiny_training
from chatsearch.train import loop
from chatsearch.train import trainer as trainer_module
from chatsearch.train.config import TrainConfig
from chatsearch.train.run import train
from chatsearch.train.start import load_start

LORA = LoraConfig(rank=4)


class Interrupt(Exception):
    pass


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("lora")


@pytest.fixture(scope="module")
def calm(folder: Path) -> dict[str, torch.Tensor]:
    """The weights after six steps of adapters."""
    made = train(tiny_training(folder, lora=LORA, output=str(folder / "calm")))
    return load_bundle(made.uri).searcher.state_dict()


def test_the_bundle_is_plain_and_what_was_frozen_stays(calm: dict[str, torch.Tensor], folder: Path) -> None:
    config = tiny_training(folder)
    before = start_searcher(config.model, load_weights(config.weights)).state_dict()
    assert calm.keys() == before.keys()
    moved = {name for name in before if not torch.equal(before[name], calm[name])}
    within = {name for name in moved if name.startswith("language.")}
    assert within == {name for name in before if "_proj." in name} | {"language.control_2H", "language.control_head_2H"}
    assert {"input_cls.weight", "query_head.weight", "gallery_head.weight", "log_scale"} <= moved
    low = (
        calm["language.decoder.layers.0.self_attn.q_proj.weight"]
        - before["language.decoder.layers.0.self_attn.q_proj.weight"]
    )
    assert (torch.linalg.svdvals(low.double()) > 1e-6).sum() <= LORA.rank


def test_the_first_loss_is_that_of_the_whole_model(folder: Path) -> None:
    loop._join_group()
    losses = []
    for lora in (LORA, LoraConfig()):
        config = tiny_training(folder, lora=lora)
        builder, trainer = loop.assemble(config, load_start(config))
        losses.append(trainer.step(0, builder.build(0, 0, 1))["loss"])
    assert losses[0] == losses[1]


def test_an_interrupted_run_goes_on_and_ends_the_same(
    calm: dict[str, torch.Tensor], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_training(folder, lora=LORA, output=str(folder / "stopped"))
    step = trainer_module.Trainer.step

    def stopping(self, number, batches):
        if number == 3:
            raise Interrupt
        return step(self, number, batches)

    monkeypatch.setattr(trainer_module.Trainer, "step", stopping)
    with pytest.raises(Interrupt):
        train(config)
    monkeypatch.setattr(trainer_module.Trainer, "step", step)
    ended = load_bundle(train(config).uri).searcher.state_dict()
    assert all(torch.equal(tensor, calm[name]) for name, tensor in ended.items())


@pytest.mark.parametrize(("precision", "zero_stage"), [("fp32", 0), ("fp32", 2), ("mixed", 1), ("bf16", 2)])
def test_adapters_learn_in_every_precision_and_zero_stage(
    calm: dict[str, torch.Tensor], folder: Path, precision: str, zero_stage: int
) -> None:
    output = str(folder / f"{precision}-{zero_stage}")
    config = tiny_training(folder, lora=LORA, precision=precision, zero_stage=zero_stage, output=output)
    made = load_bundle(train(config).uri).searcher.state_dict()
    assert all(tensor.dtype == torch.float32 for tensor in made.values())
    tolerance = {"fp32": 1e-6, "mixed": 2e-2, "bf16": 2e-2}[precision]
    for name, tensor in made.items():
        assert torch.allclose(tensor, calm[name], atol=tolerance), name


def test_the_next_stage_starts_from_the_merged_model_with_adapters_or_without(
    calm: dict[str, torch.Tensor], folder: Path
) -> None:
    for lora in (LORA, LoraConfig()):
        config = tiny_training(
            folder, lora=lora, weights=str(folder / "calm"), steps=2, output=str(folder / f"{lora.rank}")
        )
        held = load_start(config).searcher.state_dict()
        assert all(torch.equal(tensor, calm[name]) for name, tensor in held.items())
        assert train(config).manifest.counts["steps"] == 2


def test_runs_without_adapters_are_the_runs_they_were(folder: Path) -> None:
    config = tiny_training(folder)
    assert "lora" not in config.content()
    assert config.replace(lora=LORA).content()["lora"]["rank"] == 4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lora": LoraConfig(rank=16)}, "lora.rank=16 is no low rank: the narrowest matrix it adapts has 16"),
        ({"lora": LORA, "freeze": True}, "model.freeze_language=true keeps the language model as it is, lora.rank=4"),
    ],
)
def test_what_makes_no_sense_is_refused(folder: Path, changes: dict, message: str) -> None:
    config = tiny_training(folder)
    model = config.model.replace(freeze_language="freeze" in changes)
    with pytest.raises(ConfigError, match=message):
        TrainConfig.model_validate({**dict(config), "model": model, "lora": changes["lora"]})
