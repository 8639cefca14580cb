"""A bundle comes back bit for bit, or is refused by name."""

import json

import pytest
import torch
from chatsearch.errors import (
    ConfigError,
    ConflictingOutputError,
    CorruptArtefactError,
    FingerprintMismatchError,
    IncompleteArtefactError,
)
from chatsearch.kinds import MODEL_BUNDLE
from chatsearch.manifest import MANIFEST, open_artefact
from chatsearch.model.bundle import load_bundle, num_parameters, save_bundle
from chatsearch.model.frozen_encoder import load_vision
from chatsearch.model.layout import BUNDLE_FILES, CONFIG, M_Q, PROJECTION, SEARCHER
from chatsearch.testing.tiny import tiny_bundle, tiny_config, tiny_searcher, tiny_tokenizer, tiny_vision
from safetensors.numpy import load_file as load_numpy
from safetensors.torch import load_file, save_file


@pytest.fixture(scope="module")
def tokenizer():
    return tiny_tokenizer()


def tied_config(tokenizer):
    config = tiny_config(tokenizer.text_vocab_size)
    return config.replace(language=config.language.replace(tie_embeddings=True))


@pytest.mark.parametrize("tied", [False, True])
def test_every_tensor_comes_back_bit_for_bit(tmp_path, tokenizer, tied):
    config = tied_config(tokenizer) if tied else tiny_config(tokenizer.text_vocab_size)
    searcher, vision = tiny_searcher(config), tiny_vision(config)
    save_bundle(str(tmp_path / "b"), searcher, vision, tokenizer, inputs={})
    bundle = load_bundle(str(tmp_path / "b"))
    assert bundle.config == config
    for one, other in [(searcher, bundle.searcher), (vision, bundle.vision)]:
        before, after = one.state_dict(), other.state_dict()
        assert before.keys() == after.keys()
        assert all(torch.equal(before[name], after[name]) for name in before)
    assert bundle.encoder_fingerprint == vision.fingerprint
    assert bundle.preprocessing_id == vision.preprocessing_id
    assert bundle.tokenizer.encode("a red apple") == tokenizer.encode("a red apple")
    assert not bundle.searcher.training
    assert num_parameters(bundle.searcher) == num_parameters(searcher)
    if tied:
        assert bundle.searcher.language.head_VH is bundle.searcher.language.decoder.embed_tokens.weight
        assert "language.head_VH" not in load_file(tmp_path / "b" / SEARCHER)


def test_the_same_model_gives_the_same_bytes(tmp_path):
    for name in "ab":
        tiny_bundle(str(tmp_path / name))
    one, other = (open_artefact(str(tmp_path / name), MODEL_BUNDLE).manifest for name in "ab")
    assert one.files == other.files
    assert one.fingerprint == other.fingerprint
    assert one.facts == other.facts


def test_the_projection_is_readable_without_torch_and_is_what_the_model_uses(tmp_path):
    bundle = tiny_bundle(str(tmp_path / "b"))
    (weight_dD,) = load_numpy(tmp_path / "b" / PROJECTION).values()
    cls_BD = torch.randn(3, bundle.config.vision.feature_dim)
    want_Bd = cls_BD.numpy() @ weight_dD.T
    want_Bd /= (want_Bd**2).sum(1, keepdims=True) ** 0.5
    torch.testing.assert_close(bundle.searcher.gallery_embedding(cls_BD).detach(), torch.from_numpy(want_Bd))
    facts = open_artefact(str(tmp_path / "b"), MODEL_BUNDLE).manifest.facts
    assert weight_dD.shape == (facts["retrieval_dim"], facts["feature_dim"])


def test_another_projection_has_another_fingerprint(tmp_path):
    one, other = (tiny_bundle(str(tmp_path / str(seed)), seed=seed) for seed in (0, 1))
    assert one.mq_fingerprint != other.mq_fingerprint
    assert one.encoder_fingerprint != other.encoder_fingerprint


@pytest.mark.parametrize("name", BUNDLE_FILES)
def test_a_flipped_bit_is_refused_by_name(tmp_path, name):
    tiny_bundle(str(tmp_path / "b"))
    path = tmp_path / "b" / name
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(CorruptArtefactError, match=f"{name} is damaged"):
        load_bundle(str(tmp_path / "b"))


def test_a_bundle_has_the_files_it_is_said_to_have(tmp_path):
    tiny_bundle(str(tmp_path / "b"))
    assert {path.name for path in (tmp_path / "b").iterdir()} == {*BUNDLE_FILES, MANIFEST}
    assert open_artefact(str(tmp_path / "b"), MODEL_BUNDLE).manifest.files.keys() == set(BUNDLE_FILES)


def test_a_changed_description_is_refused_by_what_needs_the_encoder_alone(tmp_path):
    tiny_bundle(str(tmp_path / "b"))
    (tmp_path / "b" / CONFIG).write_bytes((tmp_path / "b" / CONFIG).read_bytes().replace(b":", b" ", 1))
    with pytest.raises(CorruptArtefactError, match=f"{CONFIG} is damaged"):
        load_vision(str(tmp_path / "b"))


def rewrite(folder, name, change):
    """Change a tensor file and sign it again, as a careless hand would."""
    tensors = load_file(folder / name)
    change(tensors)
    save_file(tensors, folder / name)
    entry = open_entry(folder, name)
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["files"][name] = entry
    manifest["seal"] = ""
    (folder / MANIFEST).write_text(json.dumps(manifest))


def open_entry(folder, name):
    import hashlib

    data = (folder / name).read_bytes()
    return {"sha256": hashlib.sha256(data).hexdigest(), "num_bytes": len(data)}


def test_the_projection_of_another_model_is_refused(tmp_path):
    tiny_bundle(str(tmp_path / "b"))
    rewrite(tmp_path / "b", PROJECTION, lambda tensors: tensors[M_Q].neg_())
    with pytest.raises(FingerprintMismatchError, match="mq_fingerprint"):
        load_bundle(str(tmp_path / "b"))


@pytest.mark.parametrize("what", ["missing", "left over", "another shape"])
def test_loading_is_strict(tmp_path, what):
    def change(tensors):
        if what == "missing":
            del tensors["log_scale"]
        elif what == "left over":
            tensors["stranger"] = torch.zeros(1)
        else:
            tensors["input_cls.bias"] = torch.zeros(3)

    tiny_bundle(str(tmp_path / "b"))
    rewrite(tmp_path / "b", SEARCHER, change)
    with pytest.raises(
        CorruptArtefactError, match={"missing": "log_scale", "left over": "stranger"}.get(what, "input_cls")
    ):
        load_bundle(str(tmp_path / "b"))


def test_without_a_manifest_there_is_no_bundle(tmp_path):
    tiny_bundle(str(tmp_path / "b"))
    (tmp_path / "b" / MANIFEST).unlink()
    with pytest.raises(IncompleteArtefactError):
        load_bundle(str(tmp_path / "b"))


def test_a_finished_bundle_of_other_inputs_is_left_alone(tmp_path):
    tiny_bundle(str(tmp_path / "b"), seed=0)
    with pytest.raises(ConflictingOutputError):
        tiny_bundle(str(tmp_path / "b"), seed=1)


def test_tokenizer_and_model_must_agree_about_the_vocabulary(tmp_path, tokenizer):
    config = tiny_config(tokenizer.text_vocab_size + 1)
    with pytest.raises(ConfigError, match="two ids"):
        save_bundle(str(tmp_path / "b"), tiny_searcher(config), tiny_vision(config), tokenizer, inputs={})


def test_the_encoder_alone_comes_from_a_bundle(tmp_path):
    bundle = tiny_bundle(str(tmp_path / "b"))
    assert load_vision(str(tmp_path / "b")).fingerprint == bundle.encoder_fingerprint
