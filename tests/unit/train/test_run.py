"""The whole job in this process, and what it refuses before it starts."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from chatsearch.corpora.config import ScenesCounts
from chatsearch.data.config import StreamConfig
from chatsearch.data.shards import ImageStore
from chatsearch.errors import (
    ClusterError,
    ConfigError,
    FingerprintMismatchError,
    IncompleteArtefactError,
    NonFiniteLossError,
)
from chatsearch.kinds import DOCUMENT_SHARDS
from chatsearch.manifest import open_artefact
from chatsearch.model import autocast
from chatsearch.model.bundle import load_bundle
from chatsearch.model.config import HeadsConfig, ObjectiveConfig
from chatsearch.model.weights import load_weights, start_searcher
from chatsearch.testing.tiny import tiny_config
from chatsearch.testing.training import tiny_training, write_tiny_shards, write_tiny_weights
from chatsearch.tracking.tracker import NullTracker
from chatsearch.train import loop
from chatsearch.train import trainer as trainer_module
from chatsearch.train.config import OptimiserConfig, PlanConfig
from chatsearch.train.run import check_capacity, check_inputs, train, whole_workers
from chatsearch.train.start import load_start


class Recorder(NullTracker):
    """Keeps what a tracker is told."""

    def __init__(self) -> None:
        self.series: dict[int, dict[str, float]] = {}
        self.summary: dict[str, float] = {}

    def log_metrics(self, metrics, step=None) -> None:
        if step is None:
            self.summary.update(metrics)
        else:
            assert step not in self.series, "a step is recorded once"
            self.series[step] = dict(metrics)


class Interrupt(Exception):
    pass


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("training")


@pytest.fixture(scope="module")
def calm(folder: Path):
    """A run of six steps, and what the tracker was told."""
    recorder = Recorder()
    return train(tiny_training(folder, output=str(folder / "calm"), log_every=2), recorder), recorder


def test_the_output_is_a_bundle_that_answers(calm) -> None:
    artefact, _ = calm
    bundle = load_bundle(artefact.uri)
    assert artefact.manifest.counts == {
        "parameters": sum(p.numel() for p in bundle.searcher.parameters()),
        "steps": 6,
        "documents": 48,
    }
    assert bundle.mq_fingerprint == artefact.manifest.facts["mq_fingerprint"]
    assert not any(name.startswith("checkpoints/") for name in artefact.manifest.files)


def test_the_series_is_sparse_complete_and_finite(calm) -> None:
    artefact, recorder = calm
    assert sorted(recorder.series) == [2, 4, 6]
    wanted = {
        "loss", "word_loss", "image_loss", "image_loss_first", "tau", "learning_rate", "grad_norm",
        "tokens_per_second", "images_per_second", "slot_fill", "queue_fill", "input_stall", "queue_seconds",
        "flops_per_second",
    }  # fmt: skip
    for metrics in recorder.series.values():
        assert wanted <= set(metrics)
        assert np.isfinite(list(metrics.values())).all()
    assert recorder.series[6]["queue_fill"] == 1.0
    assert recorder.summary["final_loss"] == artefact.manifest.facts["last_step"]["loss"]


def test_a_step_costs_what_its_documents_hold(folder: Path) -> None:
    """Volumes by position and label counts of the batches, against those of the documents one by one."""
    config = tiny_training(folder, accumulation=2, plan=PlanConfig(device="cpu-core"), log_every=1)
    loop._join_group()
    builder, trainer = loop.assemble(config, load_start(config))
    batches = builder.build(0, 0, 1)
    trainer.step(0, batches)
    lengths = [int((b.document_ids[r] == n).sum()) for b in batches for r in range(len(b.labels)) for n in range(99)]
    volume, seconds = trainer.cost.volume, trainer.cost.queue_seconds
    assert volume.positions == sum(lengths)
    assert volume.pairs == sum(length**2 for length in lengths)
    assert volume.images == sum(batch.num_images for batch in batches)
    assert volume.labels == sum(int((batch.labels != -100).sum()) for batch in batches)
    assert 0.0 < seconds < 60.0


def test_pictures_of_a_held_out_gallery_are_told_of_and_left_out_on_demand(folder: Path, caplog) -> None:
    """Half of the captions' pictures are held out: counted, and with ``decontaminate`` in no step and in the fingerprint."""
    shards = tiny_training(folder).streams[0].shards
    held_out = str(folder / "held-out")
    write_tiny_shards(held_out, ScenesCounts(caption=20))
    assert set(ImageStore.open(held_out).hashes()) < set(ImageStore.open(shards).hashes())
    made = {}
    for name, changes in {
        "plain": {},
        "told": {"held_out": held_out},
        "clean": {"held_out": held_out, "decontaminate": True},
    }.items():
        recorder = Recorder()
        made[name] = (
            train(tiny_training(folder, output=str(folder / f"leak-{name}"), **changes), recorder),
            recorder.summary,
        )
    for name in ("told", "clean"):
        assert made[name][1]["leaked_documents"] == made[name][1]["leaked_pictures"] == 20
    assert "leaked_documents" not in made["plain"][1]
    assert caplog.text.count("20 documents of") == 2
    assert caplog.text.count("They are left out.") == 1
    fingerprints = {name: artefact.fingerprint for name, (artefact, _) in made.items()}
    assert fingerprints["plain"] == fingerprints["told"] != fingerprints["clean"]
    assert made["clean"][0].manifest.inputs["held-out-0"] == open_artefact(held_out, DOCUMENT_SHARDS).fingerprint
    with pytest.raises(ConfigError, match="no shards are held out"):
        tiny_training(folder, decontaminate=True)


def test_a_finished_output_is_left_alone(calm, folder: Path) -> None:
    artefact, _ = calm
    before = os.stat(Path(artefact.uri) / "searcher.safetensors").st_mtime_ns
    again = train(tiny_training(folder, output=str(folder / "calm"), checkpoint_every=1))
    assert again.manifest == artefact.manifest
    assert os.stat(Path(artefact.uri) / "searcher.safetensors").st_mtime_ns == before


@pytest.mark.parametrize("stop_at", [3, 5])
def test_an_interrupted_run_goes_on_and_ends_the_same(calm, folder: Path, monkeypatch, stop_at: int) -> None:
    """Stop inside step ``stop_at``; checkpoints exist at 2 and 4. Loss, weights and queue equal the unbroken run's."""
    config = tiny_training(folder, output=str(folder / f"stopped-{stop_at}"))
    step = trainer_module.Trainer.step
    made: list[int] = []

    def stopping(self, number, batches):
        made.append(number)
        if number == stop_at and made.count(stop_at) == 1:
            raise Interrupt
        return step(self, number, batches)

    monkeypatch.setattr(trainer_module.Trainer, "step", stopping)
    with pytest.raises(Interrupt):
        train(config)
    torch.manual_seed(999)  # another process would have another random state
    resumed = train(config)
    assert made == [*range(stop_at + 1), *range(stop_at - stop_at % 2, 6)]
    artefact, _ = calm
    assert resumed.manifest.facts["last_step"] == artefact.manifest.facts["last_step"]
    assert resumed.manifest.files == artefact.manifest.files


def test_stage_two_starts_from_the_bundle_of_stage_one(calm, folder: Path) -> None:
    artefact, _ = calm
    config = tiny_training(
        folder,
        weights=artefact.uri,
        output=str(folder / "instruct"),
        stage="instruct",
        answer_only=True,
        zero_stage=2,
        accumulation=2,
        steps=2,
    )
    second = train(config)
    assert second.manifest.inputs["weights"] == artefact.fingerprint
    assert second.manifest.facts["encoder_fingerprint"] == artefact.manifest.facts["encoder_fingerprint"]


def test_a_loss_that_is_not_finite_stops_before_the_update_and_names_the_samples(folder: Path, monkeypatch) -> None:
    config = tiny_training(folder, output=str(folder / "bad"), optimiser=OptimiserConfig(learning_rate=1e-3))
    encode = trainer_module.Trainer._encode
    monkeypatch.setattr(trainer_module.Trainer, "_encode", lambda self, batch: _poisoned(encode(self, batch)))
    updates: list[float] = []
    monkeypatch.setattr(trainer_module.Engine, "update", lambda self, rate: updates.append(rate))
    with pytest.raises(NonFiniteLossError, match=r"step 0 is not finite on rank 0 with documents \S+, \S+"):
        train(config)
    assert updates == []


def _poisoned(encoded):
    encoded.tokens_IKE.fill_(float("nan"))
    return encoded


def test_inputs_are_checked_before_anything_starts(folder: Path, tmp_path: Path) -> None:
    config = tiny_training(folder)
    assert set(check_inputs(config)) == {"weights", "features", "stream-0"}
    for changes, error, said in (
        ({"output": ""}, ConfigError, "output is not set"),
        ({"streams": ()}, ConfigError, "streams is not set"),
        ({"weights": str(tmp_path)}, IncompleteArtefactError, "No finished weights"),
        ({"weights": config.streams[0].shards}, FingerprintMismatchError, "holds a document-shards"),
        ({"streams": (StreamConfig(shards=str(tmp_path), per_step=8),)}, IncompleteArtefactError, "nothing is there"),
        ({"features": config.weights}, FingerprintMismatchError, "not a feature-store"),
    ):
        with pytest.raises(error, match=said):
            check_inputs(config.replace(**changes))


def test_a_bundle_of_another_shape_is_refused(calm, folder: Path) -> None:
    artefact, _ = calm
    config = tiny_training(folder, weights=artefact.uri, output=str(folder / "other"))
    wider = config.model.replace(retrieval_dim=9)
    with pytest.raises(FingerprintMismatchError, match="another retrieval_dim"):
        train(config.replace(model=wider))


def test_too_few_resources_are_refused_at_once(folder: Path) -> None:
    config = tiny_training(folder, num_workers=4)
    with pytest.raises(ClusterError, match="No Ray session"):
        check_capacity(config, None)
    with pytest.raises(ClusterError, match=r"4 workers need 6 CPUs with their data tasks, the cluster has 2"):
        check_capacity(config, [{"CPU": 2.0}])
    with pytest.raises(ClusterError, match="4 GPUs"):
        check_capacity(config.replace(use_gpu=True), [{"CPU": 64.0, "GPU": 1.0}])
    check_capacity(config, [{"CPU": 6.0}])
    check_capacity(config.replace(autoscaling=True), [{"CPU": 1.0}])


def test_a_worker_that_fits_on_no_node_is_refused_though_all_nodes_together_would_hold_it(folder: Path) -> None:
    config = tiny_training(folder, num_workers=2, cpus_per_worker=4)
    with pytest.raises(
        ClusterError, match=r"needs 4 CPUs on one node, 2 are wanted and the nodes have room for 0: 2 CPUs; 2 CPUs"
    ):
        check_capacity(config, [{"CPU": 2.0}] * 5)
    with pytest.raises(ClusterError, match="room for 1: 6 CPUs; 3 CPUs"):
        check_capacity(config, [{"CPU": 6.0}, {"CPU": 3.0}])
    check_capacity(config, [{"CPU": 9.0}])
    check_capacity(config, [{"CPU": 4.0}, {"CPU": 4.0}, {"CPU": 1.0}])
    check_capacity(config.replace(cpus_per_worker=0.1), [{"CPU": 0.3}, {"CPU": 1.0}])
    with pytest.raises(ClusterError, match="4 CPUs and 1 GPUs on one node, 2 are wanted and the nodes have room for 1"):
        check_capacity(config.replace(use_gpu=True), [{"CPU": 5.0, "GPU": 2.0}, {"CPU": 5.0}])
    check_capacity(config.replace(min_workers=1), [{"CPU": 4.0}, {"CPU": 3.0}])


def test_a_range_of_workers_needs_room_for_the_fewest_each_with_its_data_tasks(folder: Path) -> None:
    config = tiny_training(folder, num_workers=4, min_workers=2)
    whole = whole_workers(config)
    assert (whole.cpus_per_worker, whole.loader.cpus_per_task) == (2.0, 0.0)  # 1 + 0.5, rounded up
    check_capacity(whole, [{"CPU": 4.0}])
    with pytest.raises(
        ClusterError, match=r"2 workers need 4 CPUs with their data tasks, the cluster has 3\. Lower min_workers"
    ):
        check_capacity(whole, [{"CPU": 3.0}])
    with pytest.raises(ClusterError, match="2 workers need 2 GPUs"):
        check_capacity(whole.replace(use_gpu=True), [{"CPU": 64.0, "GPU": 1.0}])
    fixed = config.replace(min_workers=None)
    assert whole_workers(fixed) == fixed


def test_the_ablation_without_queue_and_the_literal_objective_run(folder: Path) -> None:
    objective = ObjectiveConfig(queue_size=0, reduction="token_sum")
    artefact = train(tiny_training(folder, output=str(folder / "ablation"), objective=objective, steps=2))
    last = artefact.manifest.facts["last_step"]
    assert last["queue_fill"] == 0.0
    # The literal mean lies between the two parts.
    low, high = sorted((last["word_loss"], last["image_loss"]))
    assert low <= last["loss"] <= high
    json.dumps(artefact.manifest.facts)


def test_heads_in_closed_form_know_the_documents_they_were_fitted_on(folder: Path) -> None:
    """The image loss of the first step, before any update, with heads drawn and with heads fitted."""
    first: dict[int, float] = {}
    for num_steps in (0, 4):
        recorder = Recorder()
        output = str(folder / f"heads-{num_steps}")
        train(
            tiny_training(
                folder,
                output=output,
                steps=1,
                checkpoint_every=1,
                log_every=1,
                heads=HeadsConfig(num_steps=num_steps),
                model=tiny_config(300).replace(retrieval_dim=8),
                optimiser=OptimiserConfig(learning_rate=1e-3),
                objective=ObjectiveConfig(queue_size=50, skip_first_images=True),
            ),
            recorder,
        )
        first[num_steps] = recorder.series[1]["image_loss"]
    assert first[4] < first[0] - 0.2


def test_too_few_documents_for_fitted_heads_are_refused(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"Raise heads.num_steps, or set it to 0"):
        train(tiny_training(folder, output=str(folder / "poor"), heads=HeadsConfig(num_steps=1)))


@pytest.mark.parametrize("is_fast", [True, False])
def test_mixed_precision_learns_what_full_precision_learns(
    calm, folder: Path, is_fast: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And costs nothing where a CPU has no instructions for it: there it is full precision, bit by bit."""
    artefact, _ = calm
    monkeypatch.setattr(autocast, "is_bf16_fast", lambda device: is_fast)
    mixed = train(tiny_training(folder, output=str(folder / f"mixed-{is_fast}"), precision="mixed"))
    ours, full = (made.manifest.facts["last_step"]["loss"] for made in (mixed, artefact))
    assert (ours != full) == is_fast
    assert ours == pytest.approx(full, rel=0.02)
    assert all(p.dtype == torch.float32 for p in load_bundle(mixed.uri).searcher.parameters())


def test_frozen_words_stay_and_the_decoder_learns(folder: Path) -> None:
    config = tiny_training(folder, output=str(folder / "frozen"))
    artefact = train(config.replace(model=config.model.replace(freeze_words=True)))
    before = start_searcher(config.model, load_weights(config.weights)).state_dict()
    after = load_bundle(artefact.uri).searcher.state_dict()
    words = [name for name in before if "embed_tokens" in name or "head_VH" in name]
    assert words and all(torch.equal(before[name], after[name]) for name in words)
    moved = [name for name in before if "decoder.layers" in name and not torch.equal(before[name], after[name])]
    assert moved


@pytest.mark.parametrize("zero_stage", [0, 1, 2])
@pytest.mark.parametrize("freeze_words", [False, True])
def test_tied_embeddings_come_out_whole(folder: Path, zero_stage: int, freeze_words: bool) -> None:
    config = tiny_training(folder, steps=2, checkpoint_every=2, zero_stage=zero_stage)
    language = config.model.language.replace(tie_embeddings=True)
    model = config.model.replace(language=language, freeze_words=freeze_words)
    weights = str(folder / "tied-weights")
    if not Path(weights).exists():
        write_tiny_weights(weights, model)
    output = str(folder / f"tied-{zero_stage}-{freeze_words}")
    made = load_bundle(train(config.replace(model=model, weights=weights, output=output)).uri).searcher
    before = start_searcher(model, load_weights(weights))
    assert made.language.head_VH is made.language.decoder.embed_tokens.weight
    assert torch.equal(made.language.head_VH, before.language.head_VH) == freeze_words
    assert not torch.equal(made.language.control_2H, before.language.control_2H)
