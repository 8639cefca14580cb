"""Published weights, converted once to the starting weights of a training run.

Only safetensors, GGUF and tensors-only ``torch.load`` are read: no pickled code is ever run.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    CLIPVisionModel,
    LlamaConfig,
    PreTrainedTokenizerFast,
)

from chatsearch.data.tokenizer import ChatTokenizer
from chatsearch.errors import ConfigError, CorruptArtefactError, MissingInputError
from chatsearch.kinds import MODEL_WEIGHTS
from chatsearch.manifest import Artefact, begin_output
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
from chatsearch.model.language import HEAD
from chatsearch.model.vision import VisionEncoder
from chatsearch.model.weights import StartingWeights, save_weights


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
    perceiver = None
    if config.perceiver_source is not None:
        perceiver = read_blip2_perceiver(fetch(config.perceiver_source, config.downloads))
    vision = read_vision(config.vision, fetch(config.vision_source, config.downloads))
    language_config, language, tokenizer = read_language(fetch(config.language_source, config.downloads))
    return save_weights(output, StartingWeights(vision, language_config, language, tokenizer, perceiver))


def read_vision(config: VisionConfig, folder: Path) -> VisionEncoder:
    """The encoder of a kind from a folder of published files."""
    match config:
        case EfficientNetLite0Config():
            published = torch.load(_only(folder, "*.pth"), map_location="cpu", weights_only=True)
            return VisionEncoder.from_weights(config, convert_published(published))
        case ClipConfig():
            transformer = CLIPVisionModel.from_pretrained(folder, dtype=torch.float32)
            return VisionEncoder.from_weights(
                config, {f"transformer.{name}": tensor for name, tensor in transformer.state_dict().items()}
            )
        case SceneCnnConfig():
            raise ConfigError(
                "Nobody publishes a scene_cnn: the tiny size trains its own. Take another kind of encoder."
            )


def read_language(folder: Path) -> tuple[LanguageConfig, dict[str, Tensor], ChatTokenizer]:
    """A Llama model and its tokenizer from a GGUF file or from a folder as transformers writes it.

    Raises:
        ConfigError: the model is no Llama.
        CorruptArtefactError: tensors are missing.
    """
    gguf = sorted(folder.glob("*.gguf"))
    if gguf:
        arguments = {"gguf_file": _only(folder, "*.gguf").name}
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **arguments)
    else:
        arguments = {}
        _only(folder, "config.json")
        published = AutoConfig.from_pretrained(folder)
        if not isinstance(published, LlamaConfig):
            raise ConfigError(f"{folder} holds a {published.model_type} model. The language model must be a Llama.")
        model = AutoModelForCausalLM.from_pretrained(folder)
    if not isinstance(model.config, LlamaConfig):
        raise ConfigError(f"{folder} holds a {model.config.model_type} model. The language model must be a Llama.")
    # A fast tokenizer carries everything in one tokenizers.Tokenizer, which is all that is kept of it.
    tokenizer = AutoTokenizer.from_pretrained(folder, **arguments)
    config = language_config(model.config)
    weights = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    if config.tie_embeddings:
        weights.pop(HEAD, None)
    if not isinstance(tokenizer, PreTrainedTokenizerFast) or tokenizer.eos_token is None:
        raise MissingInputError(
            f"{folder} has no tokenizer.json that names an end token. Convert its tokenizer with transformers first."
        )
    spelled = tokenizer.backend_tokenizer.to_str()
    bos, eos, pad = tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token
    return config, weights, ChatTokenizer(spelled, bos=bos, eos=eos, pad=pad)


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


def read_blip2_perceiver(folder: Path) -> dict[str, Tensor]:
    """The Q-Former of a BLIP-2 checkpoint as LAVIS saves it (``pretrain_vitL``), under our names.

    Raises:
        MissingInputError: there is no ``*.pth`` file.
        CorruptArtefactError: it holds no Q-Former.
    """
    published = torch.load(_only(folder, "*.pth"), map_location="cpu", weights_only=True)
    return convert_lavis(published.get("model", published))


def convert_lavis(published: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our perceiver's tensors from LAVIS' names; the text half of its Q-Former is dropped.

    ``ln_vision`` is the norm between encoder and Q-Former, ``output_query`` the feed-forward of the queries;
    the plain ``intermediate`` and ``output`` belong to text.
    """
    prefix = "Qformer.bert."
    converted: dict[str, Tensor] = {}
    for name, tensor in published.items():
        if name == "query_tokens":
            converted["query_tokens_NW"] = tensor[0].float()
        elif name.startswith("ln_vision."):
            converted["token_norm." + name.removeprefix("ln_vision.")] = tensor.float()
        elif name.startswith(prefix + "embeddings.LayerNorm."):
            converted["qformer.layernorm." + name.rsplit(".", 1)[1]] = tensor.float()
        elif name.startswith(prefix + "encoder.layer."):
            part = name.removeprefix(prefix + "encoder.layer.").split(".", 1)[1]
            if not part.startswith(("intermediate.", "output.")):
                renamed = name.removeprefix(prefix).replace("attention.self.", "attention.attention.")
                converted["qformer." + renamed] = tensor.float()
    if "query_tokens_NW" not in converted or len(converted) < 10:
        raise CorruptArtefactError("This is no BLIP-2 checkpoint of LAVIS: it has no query_tokens or no Qformer.")
    return converted


def _only(folder: Path, pattern: str) -> Path:
    found = sorted(folder.glob(pattern))
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise MissingInputError(f"{folder} should hold exactly one {pattern}; found {names}. Name another folder.")
    return found[0]
