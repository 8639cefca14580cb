"""Published weights, converted once to the starting weights of a training run.

Only safetensors, GGUF and tensors-only ``torch.load`` are read: no pickled code is ever run.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    CLIPVisionConfig,
    LlamaConfig,
    PreTrainedTokenizerFast,
)

from chatsearch.data.tokenizer import ChatTokenizer
from chatsearch.errors import ConfigError, CorruptArtefactError, MissingInputError
from chatsearch.kinds import MODEL_WEIGHTS
from chatsearch.manifest import Artefact, begin_output
from chatsearch.model.checkpoint_files import read_file, read_published
from chatsearch.model.config import (
    ClipConfig,
    EfficientNetLite0Config,
    LanguageConfig,
    PublishedWeightsConfig,
    SceneCnnConfig,
    VisionConfig,
)
from chatsearch.model.efficientnet import convert_published
from chatsearch.model.fetch import fetch
from chatsearch.model.language import DECODER, HEAD, LanguageModel
from chatsearch.model.lavis import read_perceiver
from chatsearch.model.mapping import MAPPING, LeftOut, PartMapping, Published, check, map_by_name, mapping_json
from chatsearch.model.vision import VisionEncoder, build_network
from chatsearch.model.weights import StartingWeights, save_weights

_CLIP_LEFT_OUT = {
    "text_model.": "of CLIP's text half",
    "text_projection.": "of CLIP's text half",
    "visual_projection.": "of the projection into CLIP's own space",
    "logit_scale": "of CLIP's own loss",
}
"""By how a name begins."""


def build_weights(config: PublishedWeightsConfig) -> Artefact:
    """Fetch, convert and save; a finished output is returned as it is.

    Raises:
        ConfigError: no output is named, or a source holds another kind of model than configured.
        MissingInputError: a source cannot be reached or lacks a file.
        CorruptArtefactError: weights do not fit.
    """
    if not config.output:
        raise ConfigError("Say where the weights go: --set output=URI.")
    output = begin_output(config.output, MODEL_WEIGHTS, config, {}, overwrite=config.overwrite)
    if output.finished is not None:
        return output.finished
    perceiver, mappings = None, []
    if config.perceiver_source is not None:
        published = read_file(_only(fetch(config.perceiver_source, config.downloads), "*.pth"))
        perceiver, mapping = read_perceiver(published, config.vision.token_dim)
        mappings.append(mapping)
    vision, mapping = read_vision(config.vision, fetch(config.vision_source, config.downloads))
    mappings.append(mapping)
    shape, language, tokenizer, mapping = read_language(fetch(config.language_source, config.downloads))
    mappings.append(mapping)
    for part in mappings:
        print(part.summary(), flush=True)
    weights = StartingWeights(vision, shape, language, tokenizer, perceiver)
    output.folder.write_bytes(MAPPING, (json.dumps(mapping_json(mappings), indent=1) + "\n").encode())
    return save_weights(output, weights)


def read_vision(config: VisionConfig, folder: Path) -> tuple[VisionEncoder, PartMapping]:
    """The encoder of a kind from a folder of published files.

    Raises:
        ConfigError: the kind is not published, or the folder's model computes in another way.
        CorruptArtefactError: tensors are missing, left over or of another shape.
    """
    match config:
        case EfficientNetLite0Config():
            tensors, mapping = convert_published(read_file(_only(folder, "*.pth")))
        case ClipConfig():
            _check_clip(config, folder)
            with torch.device("meta"):
                wanted = {name: tensor.shape for name, tensor in build_network(config).state_dict().items()}
            tensors, mapping = map_by_name("vision encoder", read_published(folder), wanted, _clip_name)
            tensors = {name: tensor.float() for name, tensor in tensors.items()}
        case SceneCnnConfig():
            raise ConfigError(
                "Nobody publishes a scene_cnn: the tiny size trains its own. Take another kind of encoder."
            )
    return VisionEncoder.from_weights(config, tensors), mapping


def _clip_name(name: str) -> str | LeftOut:
    """Our name of a tensor of CLIP: of the whole model, or of its vision half alone."""
    for prefix, reason in _CLIP_LEFT_OUT.items():
        if name.startswith(prefix):
            return LeftOut(reason)
    if name.endswith("position_ids"):
        return LeftOut("numbers of the positions, which need no tensor")
    return "transformer." + name.removeprefix("vision_model.")


def _check_clip(config: ClipConfig, folder: Path) -> None:
    """Check what no shape of a tensor tells."""
    _only(folder, "config.json")
    published = AutoConfig.from_pretrained(folder)
    published = getattr(published, "vision_config", published)
    if not isinstance(published, CLIPVisionConfig):
        raise ConfigError(f"{folder} holds a {published.model_type} model. The vision encoder must be a CLIP.")
    ours = CLIPVisionConfig(num_attention_heads=config.num_heads)
    for name in ("num_attention_heads", "hidden_act", "layer_norm_eps"):
        theirs = getattr(published, name)
        if theirs != getattr(ours, name):
            raise ConfigError(
                f"The CLIP in {folder} has {name}={theirs}, the configuration computes with {getattr(ours, name)}. Set vision to "
                "its shape, or take OpenAI's weights."
            )


def read_language(folder: Path) -> tuple[LanguageConfig, dict[str, Tensor], ChatTokenizer, PartMapping]:
    """A Llama model and its tokenizer from a GGUF file or from a folder as transformers writes it.

    Raises:
        ConfigError: the model is no Llama, or the library that its tokenizer is read with is not installed.
        CorruptArtefactError: tensors are missing, left over or of another shape.
    """
    if sorted(folder.glob("*.gguf")):
        arguments = {"gguf_file": _only(folder, "*.gguf").name}
        llama, published = _read_gguf(folder, arguments["gguf_file"])
    else:
        arguments = {}
        _only(folder, "config.json")
        llama = AutoConfig.from_pretrained(folder)
        if not isinstance(llama, LlamaConfig):
            raise ConfigError(f"{folder} holds a {llama.model_type} model. The language model must be a Llama.")
        _check_sentencepiece(folder)
        published = read_published(folder)
    # A fast tokenizer carries everything in one tokenizers.Tokenizer, which is all that is kept of it.
    tokenizer = AutoTokenizer.from_pretrained(folder, **arguments)
    config = language_config(llama)
    weights, mapping = _language_weights(config, published)
    if not isinstance(tokenizer, PreTrainedTokenizerFast) or tokenizer.eos_token is None:
        raise MissingInputError(
            f"{folder} has no tokenizer.json that names an end token. Convert its tokenizer with transformers first."
        )
    spelled = tokenizer.backend_tokenizer.to_str()
    bos, eos, pad = tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token
    return config, weights, ChatTokenizer(spelled, bos=bos, eos=eos, pad=pad), mapping


def _check_sentencepiece(folder: Path) -> None:
    """Vicuna comes with ``tokenizer.model`` alone, which transformers converts with the library that wrote it."""
    has_model, has_json = (folder / "tokenizer.model").is_file(), (folder / "tokenizer.json").is_file()
    if has_model and not has_json and importlib.util.find_spec("sentencepiece") is None:
        raise ConfigError(
            f"{folder / 'tokenizer.model'} is read with sentencepiece, which is not installed. pip install '.[cpu,paper]' (or "
            "'.[gpu,paper]'), then run the same command again: nothing is fetched twice."
        )


def _language_weights(config: LanguageConfig, published: Published) -> tuple[dict[str, Tensor], PartMapping]:
    """Under the names that Llama checkpoints use."""
    with torch.device("meta"):
        wanted = {name: tensor.shape for name, tensor in LanguageModel(config).word_weights().items()}
    head, words = published.tensors.get(HEAD), published.tensors.get(f"{DECODER}embed_tokens.weight")
    if config.tie_embeddings and head is not None and words is not None and not torch.equal(head, words):
        raise CorruptArtefactError(
            f"The checkpoint's configuration ties the output matrix to the word embeddings, but its {HEAD} holds other numbers. Set "
            "tie_word_embeddings to false in its config.json."
        )

    def rename(name: str) -> str | LeftOut:
        if name == HEAD and config.tie_embeddings:
            return LeftOut("copy of the word embeddings, to which the output matrix is tied")
        if name.endswith("rotary_emb.inv_freq"):
            return LeftOut("frequencies of the positions, which the configuration gives")
        return name

    return map_by_name("language model", published, wanted, rename)


def _read_gguf(folder: Path, name: str) -> tuple[LlamaConfig, Published]:
    """A Llama out of a GGUF file: transformers multiplies out what is quantised, and gives the tensors their usual names."""
    read: Any = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, gguf_file=name, output_loading_info=True
    )
    model, loaded = read
    if not isinstance(model.config, LlamaConfig):
        raise ConfigError(f"{folder} holds a {model.config.model_type} model. The language model must be a Llama.")
    problems = [f"{key} is missing in {name}" for key in sorted(loaded["missing_keys"])]
    problems += [f"{key} in {name} is unexpected" for key in sorted(loaded["unexpected_keys"])]
    problems += [f"{key[0]} in {name} has another shape" for key in sorted(loaded["mismatched_keys"])]
    check("language model", problems)
    tensors = {key: tensor.detach().clone() for key, tensor in model.state_dict().items()}
    return model.config, Published(tensors, dict.fromkeys(tensors, name))


def language_config(llama: LlamaConfig) -> LanguageConfig:
    """The shape of a published Llama in our words.

    Raises:
        ConfigError: it uses something that our language model has no field for.
    """
    rope = dict(llama.rope_parameters or {})
    unknown = {
        "rope_type": rope.get("rope_type", "default") != "default",
        "attention_bias": llama.attention_bias,
        "mlp_bias": llama.mlp_bias,
        "hidden_act": llama.hidden_act != "silu",
        "head_dim": llama.head_dim not in (None, llama.hidden_size // llama.num_attention_heads),
    }
    if any(unknown.values()):
        raise ConfigError(
            f"This Llama sets {', '.join(name for name, used in unknown.items() if used)}, which is not supported. "
            "Take a model without it, such as Vicuna-7B v1.5 or SmolLM2."
        )
    return LanguageConfig(
        vocab_size=llama.vocab_size,
        hidden_size=llama.hidden_size,
        intermediate_size=llama.intermediate_size,
        num_layers=llama.num_hidden_layers,
        num_heads=llama.num_attention_heads,
        num_key_value_heads=llama.num_key_value_heads or llama.num_attention_heads,
        max_positions=llama.max_position_embeddings,
        # GGUF holds float32: 9.99999975e-06 is 1e-05.
        rms_norm_eps=float(f"{llama.rms_norm_eps:.6g}"),
        rope_theta=float(rope.get("rope_theta", 10000.0)),
        tie_embeddings=llama.tie_word_embeddings,
        initializer_range=llama.initializer_range,
    )


def _only(folder: Path, pattern: str) -> Path:
    found = sorted(folder.glob(pattern))
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise MissingInputError(f"{folder} should hold exactly one {pattern}; found {names}. Name another folder.")
    return found[0]
