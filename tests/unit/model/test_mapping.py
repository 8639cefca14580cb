"""Tiny checkpoints in the key layouts of Vicuna, CLIP and LAVIS' BLIP-2: every tensor is taken or named with a reason."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from chatsearch.errors import ConfigError, CorruptArtefactError, MissingInputError
from chatsearch.kinds import MODEL_WEIGHTS
from chatsearch.manifest import open_artefact
from chatsearch.model import published as published_module
from chatsearch.model.checkpoint_files import read_file
from chatsearch.model.config import ClipConfig, FolderSource, LanguageConfig, PerceiverConfig, PublishedWeightsConfig
from chatsearch.model.fetch import fetch
from chatsearch.model.language import LanguageModel, llama_config
from chatsearch.model.lavis import perceiver_name, read_perceiver
from chatsearch.model.mapping import LeftOut, Published, map_by_name
from chatsearch.model.perceiver import Perceiver
from chatsearch.model.published import _clip_name, build_weights, read_language
from chatsearch.model.vision import build_network
from chatsearch.model.weights import load_weights
from chatsearch.storage import Folder
from chatsearch.testing.tiny import tiny_config, tiny_tokenizer
from safetensors.torch import save_file
from transformers import CLIPConfig, CLIPModel

CLIP = ClipConfig(image_size=32, patch_size=8, hidden_size=16, intermediate_size=32, num_layers=3, num_heads=2)
Q_FORMER = PerceiverConfig(hidden_size=16, intermediate_size=32, num_layers=3, num_heads=2)
Tensors = dict[str, torch.Tensor]


def llama(vocab_size: int) -> LanguageConfig:
    return tiny_config(vocab_size).language


def vicuna_layout(shape: LanguageConfig) -> Tensors:
    """With the buffers that older checkpoints hold."""
    tensors = {name: tensor.half() for name, tensor in LanguageModel(shape).word_weights().items()}
    return tensors | {f"model.layers.{n}.self_attn.rotary_emb.inv_freq": torch.ones(4) for n in range(shape.num_layers)}


def clip_layout() -> Tensors:
    """Of the whole model, both halves."""
    vision = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "image_size": 32,
        "patch_size": 8,
    }
    text = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "vocab_size": 30,
    }
    tensors = {
        name: t.clone()
        for name, t in CLIPModel(CLIPConfig(vision_config=vision, text_config=text)).state_dict().items()
    }
    assert {
        "vision_model.embeddings.class_embedding",
        "vision_model.pre_layrnorm.weight",
        "logit_scale",
    } <= tensors.keys()
    tensors["vision_model.embeddings.position_ids"] = torch.arange(17)[None]
    tensors["text_model.embeddings.position_ids"] = torch.arange(77)[None]
    return tensors


def lavis_layout(perceiver: Perceiver) -> Tensors:
    tensors: Tensors = {}
    for name, tensor in perceiver.state_dict().items():
        if name == "query_tokens_NW":
            tensors["query_tokens"] = tensor[None]
        elif name.startswith("token_norm."):
            tensors["ln_vision." + name.removeprefix("token_norm.")] = tensor
        elif name.startswith("qformer.layernorm."):
            tensors["Qformer.bert.embeddings.LayerNorm." + name.rsplit(".", 1)[1]] = tensor
        else:
            told = name.removeprefix("qformer.").replace("attention.attention.", "attention.self.")
            tensors["Qformer.bert." + told] = tensor
    text = ["intermediate.dense.weight", "output.dense.weight", "output.LayerNorm.bias"]
    others = [f"Qformer.bert.encoder.layer.{layer}.{name}" for layer in range(3) for name in text]
    others += ["Qformer.bert.embeddings.word_embeddings.weight", "Qformer.bert.embeddings.position_ids"]
    others += [
        "Qformer.cls.predictions.bias",
        "visual_encoder.conv1.weight",
        "temp",
        "itm_head.bias",
        "vision_proj.weight",
    ]
    return tensors | {name: torch.zeros(2) for name in others}


def write_vicuna(folder: Path, tensors: Tensors, shape: LanguageConfig) -> None:
    """In two shards of torch's own format with an index, as Vicuna is published."""
    folder.mkdir()
    names = sorted(tensors)
    shards = {"pytorch_model-00001-of-00002.bin": names[::2], "pytorch_model-00002-of-00002.bin": names[1::2]}
    for file, held in shards.items():
        torch.save({name: tensors[name] for name in held}, folder / file)
    places = {name: file for file, held in shards.items() for name in held}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": places}))
    llama_config(shape).save_pretrained(folder)
    tiny_tokenizer().save(Folder(str(folder)))


def write_clip(folder: Path, tensors: Tensors, **changes: Any) -> None:
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors")
    vision = {"num_attention_heads": 2, "hidden_act": "quick_gelu"} | changes
    (folder / "config.json").write_text(json.dumps({"model_type": "clip", "vision_config": vision}))


@pytest.fixture
def published(tmp_path: Path) -> dict[str, Tensors]:
    """The three checkpoints in folders ``language``, ``vision`` and ``perceiver``; returns what they hold."""
    shape = llama(tiny_tokenizer().text_vocab_size)
    perceiver = Perceiver(Q_FORMER, num_queries=4, token_dim=CLIP.token_dim)
    held = {
        "language model": vicuna_layout(shape),
        "vision encoder": clip_layout(),
        "perceiver": lavis_layout(perceiver),
    }
    write_vicuna(tmp_path / "language", held["language model"], shape)
    write_clip(tmp_path / "vision", held["vision encoder"])
    (tmp_path / "perceiver").mkdir()
    torch.save({"model": held["perceiver"]}, tmp_path / "perceiver" / "blip2_pretrained_vitL.pth")
    return held


def config_of(folder: Path) -> PublishedWeightsConfig:
    return PublishedWeightsConfig(
        vision=CLIP,
        vision_source=FolderSource(uri=str(folder / "vision")),
        language_source=FolderSource(uri=str(folder / "language")),
        perceiver_source=FolderSource(uri=str(folder / "perceiver")),
        output=str(folder / "out"),
    )


def test_every_tensor_of_the_paper_is_mapped_and_every_one_left_out_has_a_reason(
    tmp_path: Path, published: dict[str, Tensors], capsys: pytest.CaptureFixture[str]
) -> None:
    artefact = build_weights(config_of(tmp_path))
    weights = load_weights(artefact.uri)
    ours = {
        "language model": weights.language,
        "vision encoder": weights.vision.network.state_dict(),
        "perceiver": weights.perceiver,
    }
    assert "mapping.json" in open_artefact(artefact.uri, MODEL_WEIGHTS).manifest.files
    mapping = json.loads((tmp_path / "out" / "mapping.json").read_text())["parts"]
    assert mapping.keys() == ours.keys()
    for part, told in mapping.items():
        assert told["taken"].keys() == ours[part].keys()
        used = [name for entry in told["taken"].values() for name in entry["from"]]
        assert sorted([*used, *told["left_out"]]) == sorted(published[part])
        assert all(entry["reason"] and entry["file"] for entry in told["left_out"].values())
        for name, entry in told["taken"].items():
            (source,) = entry["from"]
            tensor = published[part][source]
            tensor = tensor[0] if source == "query_tokens" else tensor
            assert torch.equal(ours[part][name].float(), tensor.float())
            assert entry["shape"] == list(tensor.shape)
    files = {file for entry in mapping["language model"]["taken"].values() for file in entry["files"]}
    assert files == {"pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin"}
    assert str(tmp_path) not in (tmp_path / "out" / "mapping.json").read_text()
    shown = capsys.readouterr().out
    assert "language model: 21 tensors from 21 published ones; left out: 2 frequencies of the positions" in shown
    assert "of the Q-Former's text half" in shown and "of CLIP's text half" in shown


def test_names_of_the_real_size_fit_on_the_meta_device() -> None:
    """Every name of ours at the paper's size has a published one that becomes it, and no two become the same."""
    with torch.device("meta"):
        clip = build_network(ClipConfig()).state_dict()
        perceiver = Perceiver(PerceiverConfig(), num_queries=32, token_dim=1024)
        lavis = lavis_layout(perceiver)
        words = LanguageModel(LanguageConfig()).word_weights()
    openai = {"vision_model." + name.removeprefix("transformer."): tensor for name, tensor in clip.items()}
    wanted = {name: tensor.shape for name, tensor in clip.items()}
    _, mapped = map_by_name("vision encoder", files_of(openai), wanted, _clip_name)
    assert len(mapped.taken) == len(clip) == 391
    found, mapped = read_perceiver(files_of(lavis), 1024)
    assert {name: t.shape for name, t in found.items()} == {n: t.shape for n, t in perceiver.state_dict().items()}
    assert words["model.layers.31.mlp.down_proj.weight"].shape == (4096, 11008)
    assert len(words) == 32 * 9 + 3


def files_of(tensors: Tensors) -> Published:
    return Published(tensors, dict.fromkeys(tensors, "file"))


@pytest.mark.parametrize(
    ("part", "change", "message"),
    [
        ("vision", "vision_model.post_layernorm.bias", "vision encoder: transformer.post_layernorm.bias is missing"),
        (
            "language",
            "model.layers.1.mlp.up_proj.weight",
            "language model: model.layers.1.mlp.up_proj.weight is missing",
        ),
        ("language", "lm_head.weight", "language model: lm_head.weight is missing"),
        (
            "perceiver",
            "Qformer.bert.encoder.layer.2.crossattention.self.key.bias",
            "layer.2.crossattention.attention.key.bias is m",
        ),
        ("perceiver", "ln_vision.weight", "token_norm.weight is missing"),
    ],
)
def test_what_is_missing_is_named(tmp_path: Path, part: str, change: str, message: str) -> None:
    tensors = layout(part)
    del tensors[change]
    rebuilt(tmp_path, part, tensors)
    with pytest.raises(CorruptArtefactError, match=message.replace(".", r"\.")):
        build_weights(config_of(tmp_path))
    assert not (tmp_path / "out" / "manifest.json").exists()


@pytest.mark.parametrize("part", ["vision", "language", "perceiver"])
def test_what_nobody_knows_is_named_with_its_file(tmp_path: Path, part: str) -> None:
    rebuilt(tmp_path, part, layout(part) | {"adapter.gate": torch.zeros(1)})
    with pytest.raises(CorruptArtefactError, match=r"adapter\.gate in \S+ is unexpected"):
        build_weights(config_of(tmp_path))


@pytest.mark.parametrize(
    ("part", "name"),
    [
        ("vision", "vision_model.embeddings.position_embedding.weight"),
        ("language", "model.norm.weight"),
        ("perceiver", "ln_vision.bias"),
    ],
)
def test_another_shape_is_named(tmp_path: Path, part: str, name: str) -> None:
    rebuilt(tmp_path, part, layout(part) | {name: torch.zeros(5)})
    with pytest.raises(CorruptArtefactError, match=rf"{name} has shape \(5,\)".replace(".", r"\.")):
        build_weights(config_of(tmp_path))


def layout(part: str) -> Tensors:
    perceiver = Perceiver(Q_FORMER, num_queries=4, token_dim=CLIP.token_dim)
    shape = llama(tiny_tokenizer().text_vocab_size)
    return {
        "vision": clip_layout,
        "language": lambda: vicuna_layout(shape),
        "perceiver": lambda: lavis_layout(perceiver),
    }[part]()


def rebuilt(folder: Path, part: str, tensors: Tensors) -> None:
    """Three checkpoints, one of them with other tensors."""
    held = {name: layout(name) for name in ("vision", "language", "perceiver")} | {part: tensors}
    write_vicuna(folder / "language", held["language"], llama(tiny_tokenizer().text_vocab_size))
    write_clip(folder / "vision", held["vision"])
    (folder / "perceiver").mkdir()
    torch.save({"model": held["perceiver"]}, folder / "perceiver" / "blip2.pth")


@pytest.mark.parametrize("changes", [{"num_attention_heads": 4}, {"hidden_act": "gelu"}])
def test_a_clip_that_computes_in_another_way_is_refused(
    tmp_path: Path, published: Any, changes: dict[str, Any]
) -> None:
    config = json.loads((tmp_path / "vision" / "config.json").read_text())
    config["vision_config"] |= changes
    (tmp_path / "vision" / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match=f"has {next(iter(changes))}="):
        build_weights(config_of(tmp_path))


def test_a_tied_model_with_another_output_matrix_is_refused(tmp_path: Path, published: Any) -> None:
    path = tmp_path / "language" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"tie_word_embeddings": True}))
    with pytest.raises(CorruptArtefactError, match="tie_word_embeddings"):
        build_weights(config_of(tmp_path))


def test_shards_that_are_gone_or_damaged_are_named(tmp_path: Path, published: Any) -> None:
    shard = tmp_path / "language" / "pytorch_model-00002-of-00002.bin"
    whole = shard.read_bytes()
    shard.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CorruptArtefactError, match=r"00002-of-00002\.bin cannot be read"):
        build_weights(config_of(tmp_path))
    shard.unlink()
    with pytest.raises(MissingInputError, match=r"00002-of-00002.bin is not there"):
        build_weights(config_of(tmp_path))


class Payload:
    def __reduce__(self) -> Any:
        return (pytest.fail, ("pickled code was run",))


def test_a_pickle_with_code_in_it_is_refused_unrun(tmp_path: Path) -> None:
    torch.save({"weight": torch.zeros(1), "more": Payload()}, tmp_path / "evil.pth")
    with pytest.raises(CorruptArtefactError, match=r"evil\.pth cannot be read"):
        read_file(tmp_path / "evil.pth")
    torch.save([torch.zeros(1)], tmp_path / "list.pth")
    with pytest.raises(CorruptArtefactError, match="something else than named tensors"):
        read_file(tmp_path / "list.pth")


def test_files_of_the_older_format_are_fetched_only_where_there_are_no_others(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "pytorch_model.bin").write_bytes(b"")
    assert fetch(FolderSource(uri=str(tmp_path / "a")), str(tmp_path)) == tmp_path / "a"


def test_a_name_of_the_q_former_is_ours_or_has_a_reason() -> None:
    assert (
        perceiver_name("Qformer.bert.encoder.layer.3.output_query.dense.bias")
        == "qformer.encoder.layer.3.output_query.dense.bias"
    )
    assert perceiver_name("Qformer.bert.encoder.layer.3.output.dense.bias") == LeftOut("of the Q-Former's text half")
    assert perceiver_name("opt_proj.weight") == LeftOut("of BLIP-2's language model")


# ---- the tokenizer, as Vicuna is published: a sentencepiece model and no tokenizer.json -----------------------------


def write_sentencepiece(folder: Path) -> None:
    """A BPE with bytes to fall back on, laid out as Llama's: <unk>, <s>, </s>, 256 bytes, merges, characters."""
    from transformers.convert_slow_tokenizer import import_protobuf

    model = import_protobuf().ModelProto()
    normal, unknown, control, byte = 1, 2, 3, 6
    pieces = [("<unk>", 0.0, unknown), ("<s>", 0.0, control), ("</s>", 0.0, control)]
    pieces += [(f"<0x{value:02X}>", 0.0, byte) for value in range(256)]
    merges = ["▁a", "▁r", "ed", "▁red", "pp", "▁app", "le", "▁apple"]
    pieces += [(piece, -float(n), normal) for n, piece in enumerate([*merges, *"▁abcdefghijklmnopqrstuvwxyz"])]
    for piece, score, kind in pieces:
        added = model.pieces.add()
        added.piece, added.score, added.type = piece, score, kind
    model.trainer_spec.model_type, model.trainer_spec.byte_fallback = 2, True
    model.trainer_spec.vocab_size = len(pieces)
    model.trainer_spec.unk_id, model.trainer_spec.bos_id, model.trainer_spec.eos_id = 0, 1, 2
    model.normalizer_spec.add_dummy_prefix, model.normalizer_spec.remove_extra_whitespaces = True, False
    (folder / "tokenizer.model").write_bytes(model.SerializeToString())
    specials = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<unk>"}
    configured = {"tokenizer_class": "LlamaTokenizer", "legacy": False, **specials}
    (folder / "tokenizer_config.json").write_text(json.dumps(configured))
    (folder / "special_tokens_map.json").write_text(json.dumps(specials))
    (folder / "tokenizer.json").unlink()


def as_published(folder: Path) -> Path:
    shape = llama(3 + 256 + 8 + 27)
    write_vicuna(folder / "vicuna", vicuna_layout(shape), shape)
    write_sentencepiece(folder / "vicuna")
    return folder / "vicuna"


def test_vicunas_own_tokenizer_is_read(tmp_path: Path) -> None:
    pytest.importorskip("sentencepiece", reason="the extra `paper` is not installed")
    config, _, tokenizer, _ = read_language(as_published(tmp_path))
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id) == (1, 2, 0)
    assert tokenizer.img_id == tokenizer.text_vocab_size == config.vocab_size
    first_merge = 3 + 256
    assert tokenizer.encode("a red apple") == [first_merge, first_merge + 3, first_merge + 7]
    assert tokenizer.encode("red", continues=True) == [first_merge + 3], "one space before a word, never two"
    assert tokenizer.decode(tokenizer.encode("a Käse </s> [IMG]")) == "a Käse </s> [IMG]"
    assert not {0, 1, 2} & set(tokenizer.encode("<s> a </s> <unk>"))


def test_a_tokenizer_that_nothing_here_reads_is_named_with_what_to_install(tmp_path: Path, monkeypatch) -> None:
    folder = as_published(tmp_path)
    monkeypatch.setattr(published_module.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        ConfigError, match=r"tokenizer\.model is read with sentencepiece, .* pip install '\.\[cpu,paper\]'"
    ):
        read_language(folder)
