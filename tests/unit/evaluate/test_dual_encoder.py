"""The dual encoder: loss against brute force, padding, variants, training and the artefact."""

import math
import shutil

import numpy as np
import pytest
import torch
from chatsearch.data.coin import Coin
from chatsearch.data.config import StreamConfig
from chatsearch.data.shards import DocumentShards
from chatsearch.data.tokenizer import ChatTokenizer
from chatsearch.errors import ChatSearchError, ConfigError, CorruptArtefactError, FingerprintMismatchError
from chatsearch.evaluate.baseline import train_baseline
from chatsearch.evaluate.config import DualEncoderTrainingConfig, PhaseConfig
from chatsearch.evaluate.contrastive import pad, symmetric_loss
from chatsearch.evaluate.dual_encoder import DUAL_ENCODER_FORMAT, text_ids, text_states
from chatsearch.evaluate.methods import DualEncoderMethod, dual_encoder_methods
from chatsearch.evaluate.pairs import pair_of
from chatsearch.evaluate.pictures import PictureFeatures
from chatsearch.evaluate.queries import queries_by_sub_task
from chatsearch.index.features import FeatureStore
from chatsearch.model.bundle import load_bundle
from chatsearch.model.config import HeadsConfig
from chatsearch.model.weights import load_weights
from chatsearch.testing.tiny import tiny_tokenizer
from chatsearch.tracking.tracker import NullTracker
from chatsearch.types import Document, Kind, Role, Segment
from safetensors.numpy import load_file, save_file

TENSORS = DUAL_ENCODER_FORMAT.tensors


class Recorder(NullTracker):
    def __init__(self):
        self.losses = []

    def log_metrics(self, metrics, step=None):
        self.losses += metrics.values()


def baseline_config(world, output, **changes):
    captions = StreamConfig(shards=world.train_shards, per_step=12, kinds=(Kind.CAPTION,))
    dialogues = StreamConfig(shards=world.train_shards, per_step=8)
    phases = (
        PhaseConfig(streams=(captions,), steps=25, learning_rate=3e-3, warmup_steps=3),
        PhaseConfig(streams=(dialogues,), steps=10, learning_rate=1e-3, warmup_steps=3),
    )
    values = {"weights": world.weights, "features": world.train_features, "phases": phases, "retrieval_dim": 16}
    return DualEncoderTrainingConfig(**{**values, "log_every": 1, "output": str(output), **changes})


@pytest.fixture(scope="module")
def trained(world):
    tracker = Recorder()
    artefact = train_baseline(baseline_config(world, world.root / "dual"), tracker)
    return DUAL_ENCODER_FORMAT.open(artefact.uri), tracker, artefact


def test_loss_is_the_mean_of_both_cross_entropies_without_twins(rng):
    text, image = (torch.nn.functional.normalize(torch.tensor(rng.normal(size=(4, 6))), dim=-1) for _ in "ab")
    images = ["a", "b", "a", "c"]
    logits = 5.0 * (text @ image.T).numpy()
    expected = 0.0
    for i in range(4):
        rivals = [j for j in range(4) if j == i or images[j] != images[i]]
        expected += math.log(sum(math.exp(logits[i, j] - logits[i, i]) for j in rivals))
        expected += math.log(sum(math.exp(logits[j, i] - logits[i, i]) for j in rivals))
    assert symmetric_loss(text, image, torch.tensor(5.0), images).item() == pytest.approx(expected / 8)


def test_a_batch_of_one_picture_has_no_loss():
    vector = torch.eye(2)[:1].expand(2, 2)
    assert symmetric_loss(vector, vector, torch.tensor(10.0), ["a", "a"]).item() == 0.0


def test_pairs_of_a_text_and_its_picture():
    words = Segment
    page = Document(
        "p",
        Kind.INTERLEAVED,
        (Segment(image="a"), words("one"), words("two"), Segment(image="b"), words("three"), Segment(image="c")),
    )
    drawn = {pair_of(page, Coin(0, "p", epoch)) for epoch in range(40)}
    assert drawn == {("one", "a"), ("two", "b"), ("three", "c")}
    caption = Document("c", Kind.CAPTION, (Segment(image="a"), words("one"), words("two")))
    assert {pair_of(caption, Coin(0, "c", epoch)) for epoch in range(20)} == {("one", "a"), ("two", "a")}
    said = [
        Segment("find it", role=Role.USER),
        Segment(image="a", role=Role.ASSISTANT),
        Segment("bigger", role=Role.USER),
    ]
    dialogue = Document("d", Kind.M, (*said, Segment(image="b", role=Role.ASSISTANT)))
    assert pair_of(dialogue, Coin(0, "d", 0)) == ("find it bigger", "b")


def test_long_texts_keep_their_end():
    tokenizer = tiny_tokenizer()
    ids = text_ids("first words and then the last", tokenizer, 6)
    assert len(ids) == 6
    assert ids[-1] == tokenizer.eos_id
    assert ids[:-1] == tokenizer.encode("first words and then the last")[-5:]


@pytest.mark.parametrize("pooling", ["last", "mean"])
def test_padding_changes_nothing(trained, pooling):
    network = trained[0].network
    network.config = network.config.replace(pooling=pooling)
    rows = [[5, 6, 7], [8, 9, 10, 11, 12, 13], [20]]
    with torch.inference_mode():
        together = network.text_states(*pad(rows, 0))
        alone = torch.cat([network.text_states(*pad([row], 0)) for row in rows])
        grouped = text_states(network, rows, 0, group_size=2)
    network.config = network.config.replace(pooling="last")
    torch.testing.assert_close(grouped, alone, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-4)


def test_training_learns_counts_samples_and_is_done_once(world, trained):
    encoder, tracker, artefact = trained
    assert np.mean(tracker.losses[20:25]) < np.mean(tracker.losses[:5]) - 0.1
    assert artefact.manifest.counts["samples"] == 25 * 12 + 10 * 8
    again = Recorder()
    assert train_baseline(baseline_config(world, world.root / "dual"), again).fingerprint == artefact.fingerprint
    assert again.losses == []
    assert encoder.encoder_fingerprint == load_bundle(world.bundle).encoder_fingerprint


def test_projections_in_closed_form_know_the_pairs_they_were_fitted_on(world, trained, tmp_path):
    tracker = Recorder()
    config = baseline_config(world, tmp_path / "fitted", heads=HeadsConfig(num_steps=4), retrieval_dim=8)
    train_baseline(config.replace(phases=(config.phases[0].replace(steps=4, warmup_steps=0),)), tracker)
    assert tracker.losses[0] < trained[1].losses[0] - 0.1


def test_a_shorter_tower_with_frozen_words(world, tmp_path):
    config = baseline_config(world, tmp_path / "short", num_layers=1, freeze_words=True, mixed=True)
    artefact = train_baseline(config.replace(phases=(config.phases[0].replace(steps=3),)), NullTracker())
    weights = load_weights(world.weights).language
    made = load_file(f"{artefact.uri}/{TENSORS}")
    assert {name.split(".")[3] for name in made if ".layers." in name} == {"0"}
    np.testing.assert_array_equal(made["text.decoder.embed_tokens.weight"], weights["model.embed_tokens.weight"])
    with pytest.raises(ConfigError, match="num_layers=9 is more than the 2 layers"):
        train_baseline(config.replace(num_layers=9, output=str(tmp_path / "no")), NullTracker())


def test_a_tower_from_scratch_shares_no_weight_with_the_language_model(world, tmp_path):
    config = baseline_config(
        world, tmp_path / "scratch", from_scratch=True, seed=1
    )  # the weights are drawn with seed 0
    artefact = train_baseline(config.replace(phases=(config.phases[0].replace(steps=1),)), NullTracker())
    made = load_file(f"{artefact.uri}/{TENSORS}")["text.decoder.embed_tokens.weight"]
    words = load_weights(world.weights).language["model.embed_tokens.weight"]
    assert made.shape == words.shape
    assert abs(np.corrcoef(made.ravel(), np.asarray(words).ravel())[0, 1]) < 0.05
    with pytest.raises(ConfigError, match="freeze_words=false"):
        config.replace(freeze_words=True)


def test_the_same_configuration_gives_the_same_weights(world, trained, tmp_path):
    artefact = train_baseline(baseline_config(world, tmp_path / "dual"), NullTracker())
    ours, theirs = (load_file(f"{uri}/{TENSORS}") for uri in (artefact.uri, trained[2].uri))
    assert set(ours) == set(theirs)
    for name, tensor in ours.items():
        np.testing.assert_allclose(tensor, theirs[name], atol=1e-5)
    assert ChatTokenizer.load(artefact.folder).vocab_size == tiny_tokenizer().vocab_size


def test_variants_read_text_picture_and_both(world, trained):
    bundle = load_bundle(world.bundle)
    shards = DocumentShards.open(world.shards)
    pictures = PictureFeatures(
        bundle.vision, shards.images.get, encoder_fingerprint=bundle.encoder_fingerprint, batch_size=4
    )
    i, t, ti = dual_encoder_methods(trained[0], pictures, bundle)
    queries = queries_by_sub_task(shards.documents())["m"]
    assert [m.applies_to("t") for m in (i, t, ti)] == [False, True, False]
    assert all(m.applies_to("m") for m in (i, t, ti))
    both = i.queries(queries) + t.queries(queries)
    both /= np.linalg.norm(both, axis=1, keepdims=True)
    np.testing.assert_allclose(ti.queries(queries), both, atol=1e-6)
    last = pictures.matrix([query.images[-1] for query in queries])
    np.testing.assert_allclose(i.queries(queries), t.gallery(last), atol=1e-6)
    assert isinstance(t, DualEncoderMethod)
    assert t.name == "dual encoder (t)"


def test_a_baseline_on_other_features_is_refused(trained, world):
    from dataclasses import replace

    bundle = load_bundle(world.bundle)
    with pytest.raises(FingerprintMismatchError, match="other"):
        dual_encoder_methods(replace(trained[0], encoder_fingerprint="other"), None, bundle)


def test_damaged_weights_are_refused(trained, tmp_path):
    copy = shutil.copytree(trained[2].uri, tmp_path / "copy")
    tensors = load_file(copy / TENSORS)
    tensors["text_head.weight"] = tensors["text_head.weight"] + 1
    save_file(tensors, copy / TENSORS)
    with pytest.raises(CorruptArtefactError):
        DUAL_ENCODER_FORMAT.open(str(copy))


def test_user_mistakes_are_named(world, tmp_path):
    with pytest.raises(ConfigError, match="weights is not set"):
        train_baseline(baseline_config(world, tmp_path / "a", weights=""), NullTracker())
    words_only = PhaseConfig(streams=(StreamConfig(shards=world.train_shards, kinds=(Kind.QUESTION,)),), steps=2)
    with pytest.raises(ConfigError, match="no document with a text and its picture"):
        train_baseline(baseline_config(world, tmp_path / "b", phases=(words_only,)), NullTracker())
    held_out = PhaseConfig(streams=(StreamConfig(shards=world.shards),), steps=2)
    with pytest.raises(ChatSearchError, match="split=train"):
        train_baseline(baseline_config(world, tmp_path / "c", phases=(held_out,)), NullTracker())
    with pytest.raises(ConfigError, match="num_steps=26 is more than the 25 steps of the first phase"):
        baseline_config(world, tmp_path / "d", heads=HeadsConfig(num_steps=26))
    missing = baseline_config(world, tmp_path / "d", features=world.features)
    with pytest.raises(ChatSearchError, match="not among"):
        train_baseline(missing, NullTracker())
    assert len(FeatureStore.open(world.train_features)) > 0
