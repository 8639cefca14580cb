"""FROMAGe: rows against hand-written ones, loss against brute force, what is trained and what is not, and the artefact."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from chatsearch.data.coin import Coin
from chatsearch.data.config import StreamConfig
from chatsearch.data.example import IGNORED
from chatsearch.data.shards import DocumentShards
from chatsearch.data.steps import StepBuilder
from chatsearch.errors import ConfigError, ConflictingOutputError, CorruptArtefactError, FingerprintMismatchError
from chatsearch.evaluate.baseline import train_baseline
from chatsearch.evaluate.config import DualEncoderTrainingConfig, EvaluateConfig, FromageTrainingConfig, PhaseConfig
from chatsearch.evaluate.dual_encoder_training import DualEncoderLearner
from chatsearch.evaluate.fromage import FROMAGE_FORMAT, encode_contexts
from chatsearch.evaluate.fromage_rows import caption_row, retrieval_row
from chatsearch.evaluate.fromage_training import FromageLearner
from chatsearch.evaluate.methods import fromage_method
from chatsearch.evaluate.pairs import Draw, context_of
from chatsearch.evaluate.phases import Phase
from chatsearch.evaluate.pictures import PictureFeatures
from chatsearch.evaluate.queries import queries_by_sub_task
from chatsearch.evaluate.run import evaluate
from chatsearch.evaluate.table import table_of
from chatsearch.index.features import FeatureStore
from chatsearch.kinds import FROMAGE
from chatsearch.model.bundle import load_bundle
from chatsearch.model.config import HeadsConfig
from chatsearch.model.weights import load_weights
from chatsearch.testing.tiny import tiny_tokenizer
from chatsearch.tracking.tracker import NullTracker
from chatsearch.types import Document, Kind, Role, Segment
from safetensors.torch import load_file, save_file

from jobs.baseline import JOB
from tests.unit.evaluate.test_text_to_image import jpeg, write_folder

TRAINED = {"visual.weight", "visual.bias", "ret_H", "text_head.weight", "image_head.weight", "log_scale"}


class Recorder(NullTracker):
    def __init__(self):
        self.metrics = []

    def log_metrics(self, metrics, step=None):
        self.metrics.append(metrics)

    def of(self, name):
        return [metrics[name] for metrics in self.metrics if name in metrics]


def fromage_config(world, output, **changes):
    captions = StreamConfig(shards=world.train_shards, per_step=12, kinds=(Kind.CAPTION,))
    dialogues = StreamConfig(shards=world.train_shards, per_step=8)
    phases = (
        PhaseConfig(streams=(captions,), steps=25, learning_rate=1e-2, warmup_steps=3),
        PhaseConfig(streams=(dialogues,), steps=10, learning_rate=3e-3, warmup_steps=3),
    )
    values = {"weights": world.weights, "features": world.train_features, "phases": phases, "retrieval_dim": 16}
    return FromageTrainingConfig(**{**values, "log_every": 1, "output": str(output), **changes})


@pytest.fixture(scope="module")
def trained(world):
    tracker = Recorder()
    artefact = train_baseline(fromage_config(world, world.root / "fromage"), tracker)
    return FROMAGE_FORMAT.open(artefact.uri), tracker, artefact


@pytest.fixture(scope="module")
def learner(world):
    config = fromage_config(world, world.root / "never", num_visual_tokens=2)
    return FromageLearner.start(config, load_weights(world.weights), FeatureStore.open(world.train_features))


@pytest.fixture(scope="module")
def draws(learner):
    """Captions and dialogues of all kinds."""
    captions, dialogues = (next(Phase.open(phase).steps(0)) for phase in learner.config.phases)
    return [*captions[:5], *dialogues]


# ---- rows ---------------------------------------------------------------------------------------------------


def test_a_row_is_the_models_own_prompt_with_pictures_as_slots_and_ret_behind_it():
    tokenizer = tiny_tokenizer()
    context = (Segment("find", role=Role.USER), Segment(image="a", role=Role.USER), Segment("red", role=Role.USER))
    row = retrieval_row(context, tokenizer, num_visual_tokens=2, max_length=100)
    before = [tokenizer.bos_id, *tokenizer.encode("USER:"), *tokenizer.encode("find", continues=True)]
    after = [*tokenizer.encode("red", continues=True), *tokenizer.encode("ASSISTANT:", continues=True)]
    pad = tokenizer.pad_id
    assert row.ids == (*before, pad, pad, *after, tokenizer.text_vocab_size)
    assert row.images == ((len(before), "a"),)
    assert set(row.labels) == {IGNORED}


def test_of_a_long_context_the_end_is_kept_and_no_picture_is_cut():
    tokenizer = tiny_tokenizer()
    context = (Segment("some old words"), Segment(image="a"), Segment("new"))
    new = tokenizer.encode("new", continues=True)
    whole = retrieval_row(context, tokenizer, num_visual_tokens=3, max_length=100)
    for max_length in range(3, len(whole) + 1):
        row = retrieval_row(context, tokenizer, num_visual_tokens=3, max_length=max_length)
        assert len(row) <= max_length
        assert (row.ids[0], row.ids[-1]) == (tokenizer.bos_id, tokenizer.img_id)
        fits = max_length >= len(new) + 3 + 2
        assert row.images == (((len(row) - 1 - len(new) - 3, "a"),) if fits else ())
        words = [i for i in whole.ids[1:-1] if i != tokenizer.pad_id]
        held = [i for i in row.ids[1:-1] if i != tokenizer.pad_id]
        assert held == words[len(words) - len(held) :]


def test_captions_want_their_words_and_their_end():
    tokenizer = tiny_tokenizer()
    one, two = ([*tokenizer.encode(t, continues=True), tokenizer.eos_id] for t in ("red apple", "blue car"))
    row = caption_row([("a", "red apple"), ("b", "blue car")], tokenizer, num_visual_tokens=2, max_length=100)
    pad, no = tokenizer.pad_id, IGNORED
    assert row.ids == (tokenizer.bos_id, pad, pad, *one, pad, pad, *two)
    assert row.labels == (no, no, *one, no, no, *two, no)
    assert row.images == ((1, "a"), (3 + len(one), "b"))
    short = caption_row([("a", "red apple"), ("b", "blue car")], tokenizer, num_visual_tokens=2, max_length=13)
    assert len(short) <= 13
    assert short.labels[2 : 2 + 4] == (*one[:3], tokenizer.eos_id)


def test_what_stands_before_a_picture_on_a_page():
    page = (Segment(image="a"), Segment("one"), Segment(image="b"), Segment("two"))
    document = Document("p", Kind.INTERLEAVED, page)
    drawn = {context_of(document, Coin(0, "p", epoch)) for epoch in range(20)}
    assert drawn == {((page[1],), "a"), (page[:2], "b")}
    wordless = Document("w", Kind.INTERLEAVED, (Segment(image="a"),))
    assert context_of(wordless, Coin(0, "w", 0)) == ((), "a")
    assert len(retrieval_row((), tiny_tokenizer(), num_visual_tokens=1, max_length=9)) == 2


# ---- the network and its loss -------------------------------------------------------------------------------


def test_gradients_reach_the_maps_ret_and_the_temperature_and_nothing_else(learner, draws):
    learner.network.zero_grad()
    learner.losses(draws)["loss"].backward()
    named = dict(learner.network.named_parameters())
    assert {name for name, p in named.items() if p.grad is not None and p.grad.abs().sum() > 0} == TRAINED
    assert {name for name, p in named.items() if p.requires_grad} == TRAINED


def test_the_loss_is_infonce_both_ways_and_the_mean_over_caption_words(learner, draws):
    network, asked = learner.network, learner.ask(draws)
    losses = {name: value.item() for name, value in learner.losses(draws).items()}
    with torch.no_grad():
        text, image = (
            vectors / vectors.norm(dim=1, keepdim=True)
            for vectors in (asked.states_BH @ network.text_head.weight.T, asked.cls_BD @ network.image_head.weight.T)
        )
        logits = (text @ image.T / learner.config.tau0).double().numpy()
    count = len(draws)
    rivals = [[j for j in range(count) if j == i or asked.images[j] != asked.images[i]] for i in range(count)]
    rows = [np.log(sum(np.exp(logits[i, j]) for j in rivals[i])) - logits[i, i] for i in range(count)]
    columns = [np.log(sum(np.exp(logits[j, i]) for j in rivals[i])) - logits[i, i] for i in range(count)]
    assert losses["retrieval_loss"] == pytest.approx((np.mean(rows) + np.mean(columns)) / 2, rel=1e-4)

    nats = []
    with torch.no_grad():
        for row in learner.caption_rows(draws):
            hidden = network.hidden([row], lambda hashes: np.stack([learner.store.get(h) for h in hashes]), 0)[0]
            chances = torch.softmax(hidden @ network.text.head_VH.T, dim=-1)
            nats += [-chances[at, word].log().item() for at, word in enumerate(row.labels) if word != IGNORED]
    num_captions = sum(draw.document.kind == Kind.CAPTION for draw in draws)
    assert num_captions >= 5
    assert losses["caption_loss"] == pytest.approx(np.mean(nats), rel=1e-4)
    assert losses["loss"] == pytest.approx(losses["retrieval_loss"] + losses["caption_loss"], rel=1e-5)
    alone = replace(learner, config=learner.config.replace(caption_weight=0.0)).losses(draws)
    assert alone["loss"].item() == pytest.approx(losses["retrieval_loss"])
    assert "caption_loss" not in alone


def test_every_caption_is_described_once_whatever_shares_a_row(learner, draws):
    described = []
    for share in (0.0, 0.5, 1.0):
        rows = replace(learner, config=learner.config.replace(concatenate=share)).caption_rows(draws)
        described.append(sorted(image for row in rows for _, image in row.images))
        assert {len(row.images) for row in rows} <= ({1} if share == 0.0 else {1, 2})
    captions = [draw.document.images()[0] for draw in draws if draw.document.kind == Kind.CAPTION]
    assert described == [sorted(captions)] * 3
    assert len(rows) == (len(captions) + 1) // 2


def test_padding_changes_nothing_and_pictures_do(learner, draws):
    def features(hashes):
        return np.stack([learner.store.get(h) for h in hashes])

    found = [context_of(*draw)[0] for draw in draws]
    rows = [retrieval_row(c, learner.tokenizer, num_visual_tokens=2, max_length=512) for c in found]
    assert len({len(row) for row in rows}) > 3
    with torch.inference_mode():
        together = learner.network.states(rows, features, 0, group_size=len(rows))
        grouped = learner.network.states(rows, features, 7, group_size=3)
        alone = torch.cat([learner.network.states([row], features, 0, group_size=1) for row in rows])
        doubled = learner.network.states(rows, lambda hashes: 2 * features(hashes), 0, group_size=3)
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(grouped, alone, atol=1e-5, rtol=1e-4)
    reads_pictures = torch.tensor([bool(row.images) for row in rows])
    assert reads_pictures.any()
    moved = (doubled - grouped).abs().amax(1) > 1e-4
    assert torch.equal(moved, reads_pictures)


def test_pictures_and_ret_start_as_large_as_words(learner):
    network = learner.network
    words = network.text.decoder.embed_tokens.weight.square().mean().sqrt()
    pictures = network.visual(torch.from_numpy(learner.store.matrix_ND.copy())).square().mean().sqrt()
    assert pictures.item() == pytest.approx(words.item(), rel=1e-4)
    assert network.ret_H.norm() > 0


# ---- training -----------------------------------------------------------------------------------------------


def test_the_samples_are_those_of_the_model_and_of_the_dual_encoder(world, learner):
    paired = (Kind.EDIT, Kind.T, Kind.I, Kind.M)
    streams = (
        StreamConfig(shards=world.train_shards, per_step=3, kinds=(Kind.CAPTION,)),
        StreamConfig(shards=world.train_shards, per_step=4, kinds=paired),
    )
    builder = StepBuilder(streams, learner.tokenizer, 2, 512, seed=5)
    config = DualEncoderTrainingConfig(retrieval_dim=16)
    dual = DualEncoderLearner.start(config, load_weights(world.weights), learner.store)
    for step, draws in enumerate(Phase.open(PhaseConfig(streams=streams, steps=6)).steps(5)):
        ours = [
            (builder.sources[s.stream][0].document(int(builder.sources[s.stream][1][s.document])), s.epoch)
            for s in builder.plan.step(step)
        ]
        assert [(draw.document.document_id, draw.coin.epoch) for draw in draws] == [
            (document.document_id, epoch) for document, epoch in ours
        ]
        assert learner.ask(draws).images == dual.ask(draws).images
        assert [draw.document.images()[-1] for draw in draws] == learner.ask(draws).images


def test_training_learns_and_leaves_the_language_model_as_it_was(world, trained):
    fromage, tracker, artefact = trained
    losses = tracker.of("phase_0/retrieval_loss")
    assert np.mean(losses[20:]) < np.mean(losses[:5]) - 0.1
    assert len(tracker.of("phase_0/caption_loss")) == 25
    assert len(tracker.of("phase_1/loss")) == 10
    weights, made = load_weights(world.weights).language, load_file(f"{artefact.uri}/{FROMAGE_FORMAT.tensors}")
    frozen = {name.removeprefix("text.decoder."): t for name, t in made.items() if name not in TRAINED}
    assert set(made) == TRAINED | {f"text.decoder.{name}" for name in frozen}
    for name, tensor in frozen.items():
        assert torch.equal(tensor, weights[f"model.{name}"]), name
    assert artefact.manifest.counts["samples"] == 25 * 12 + 10 * 8
    assert artefact.manifest.counts["trained_parameters"] == sum(made[name].numel() for name in TRAINED)
    assert fromage.encoder_fingerprint == load_bundle(world.bundle).encoder_fingerprint
    again = Recorder()
    assert train_baseline(fromage_config(world, world.root / "fromage"), again).fingerprint == artefact.fingerprint
    assert again.metrics == []


def test_the_same_configuration_gives_the_same_weights(world, trained, tmp_path):
    artefact = train_baseline(fromage_config(world, tmp_path / "fromage"), NullTracker())
    ours, theirs = (load_file(f"{uri}/{FROMAGE_FORMAT.tensors}") for uri in (artefact.uri, trained[2].uri))
    for name, tensor in ours.items():
        torch.testing.assert_close(tensor, theirs[name], atol=1e-5, rtol=0, msg=name)


def test_projections_in_closed_form_and_mixed_precision(world, trained, tmp_path):
    tracker = Recorder()
    config = fromage_config(
        world, tmp_path / "fitted", heads=HeadsConfig(num_steps=4), retrieval_dim=8, mixed=True, num_layers=1
    )
    train_baseline(config.replace(phases=(config.phases[0].replace(steps=4, warmup_steps=0),)), tracker)
    assert tracker.of("phase_0/retrieval_loss")[0] < trained[1].of("phase_0/retrieval_loss")[0] - 0.1


def test_damaged_files_are_refused(trained, tmp_path):
    for name in (FROMAGE_FORMAT.tensors, "config.json", "tokenizer.json"):
        copy = shutil.copytree(trained[2].uri, tmp_path / name)
        if name == FROMAGE_FORMAT.tensors:
            tensors = load_file(copy / name)
            save_file({**tensors, "ret_H": tensors["ret_H"] + 1}, copy / name)
        else:
            (copy / name).write_bytes((copy / name).read_bytes().replace(b"1", b"2", 1))
        with pytest.raises(CorruptArtefactError):
            FROMAGE_FORMAT.open(str(copy))


def test_user_mistakes_are_named(world, trained, tmp_path):
    with pytest.raises(ConfigError, match="features is not set"):
        train_baseline(fromage_config(world, tmp_path / "a", features=""), NullTracker())
    with pytest.raises(ConfigError, match="num_layers=9 is more than the 2 layers"):
        train_baseline(fromage_config(world, tmp_path / "b", num_layers=9), NullTracker())
    with pytest.raises(ConfigError, match="max_length=15 cannot hold two captioned pictures"):
        fromage_config(world, tmp_path / "c", num_visual_tokens=4, max_length=15)
    with pytest.raises(ConflictingOutputError, match="already holds a fromage"):
        train_baseline(
            DualEncoderTrainingConfig(
                **{n: getattr(fromage_config(world, ""), n) for n in ("weights", "features", "phases")}
            ).replace(output=trained[2].uri),
            NullTracker(),
        )


# ---- as a method --------------------------------------------------------------------------------------------


def test_queries_are_the_embeddings_that_training_compares(world, trained):
    fromage = trained[0]
    store = FeatureStore.open(world.train_features)
    weights = load_weights(world.weights)
    config = fromage_config(world, "")
    learner = replace(FromageLearner.start(config, weights, store), network=fromage.network)
    shards = DocumentShards.open(world.train_shards)
    documents = [d for d in shards.documents() if d.kind == Kind.M]
    asked = learner.ask([Draw(d, Coin(0, d.document_id, 0)) for d in documents])
    with torch.inference_mode():
        expected = fromage.network.text_embedding(asked.states_BH).numpy()
    contexts = [d.query()[0] for d in documents]
    found = encode_contexts(fromage, contexts, lambda hashes: np.stack([store.get(h) for h in hashes]), batch_size=2)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_evaluate_gives_it_a_row_beside_the_model(world, trained, tmp_path):
    values = {"model": world.bundle, "fromage": trained[2].uri, "output": str(tmp_path / "a.json")}
    result = evaluate(EvaluateConfig(data=world.shards, index=world.index, **values), NullTracker())
    assert result["inputs"]["fromage"] == {"uri": trained[2].uri, "fingerprint": trained[2].fingerprint}
    assert set(result["methods"]["FROMAGe"]) == {"t", "i", "m", "average"}
    for table in table_of(result):
        assert [row[0] for row in table.rows][-1] == "FROMAGe"

    folder = write_folder(tmp_path / "data", [({"split": "test"}, jpeg(n)) for n in range(6)])
    values["output"] = str(tmp_path / "b.json")
    result = evaluate(EvaluateConfig(protocol="text_to_image", data=folder, **values), NullTracker())
    assert result["baselines"]["FROMAGe"]["R@10"] == 100.0
    without = EvaluateConfig(protocol="text_to_image", data=folder, baselines=("random",), **values)
    result = evaluate(without.replace(overwrite=True), NullTracker())
    assert "FROMAGe" not in result["baselines"]
    assert "fromage" not in result["inputs"]


def test_a_baseline_on_other_features_is_refused(world, trained):
    bundle = load_bundle(world.bundle)
    shards = DocumentShards.open(world.shards)
    pictures = PictureFeatures(bundle.vision, shards.images.get, encoder_fingerprint=bundle.encoder_fingerprint)
    method = fromage_method(trained[0], pictures, bundle, batch_size=4)
    queries = queries_by_sub_task(shards.documents())["m"]
    np.testing.assert_allclose(np.linalg.norm(method.queries(queries), axis=1), 1.0, rtol=1e-5)
    with pytest.raises(FingerprintMismatchError, match="other"):
        fromage_method(replace(trained[0], encoder_fingerprint="other"), pictures, bundle, batch_size=4)


def test_the_job_knows_which_baseline_lies_there(world, trained):
    config = fromage_config(world, trained[2].uri)
    assert config.KIND == FROMAGE == trained[2].manifest.kind
    assert JOB.kind(config) == FROMAGE
    assert JOB.recipe_names() == [
        "tiny",
        "tiny_fromage",
        "small",
        "small_fromage",
        "small_photos",
        "small_photos_scratch",
    ]
