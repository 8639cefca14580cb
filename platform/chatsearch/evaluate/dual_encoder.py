"""A CLIP-style dual encoder: one vector from text, one from a picture, compared by cosine.

The text tower is the model's own starting language model, the picture side one linear layer over the same
frozen f_CLS. So it differs from ours in what is compared: it never reads pictures and text together.

Shapes: B texts, L tokens of the longest, H hidden width, D width of f_CLS, d retrieval width.

    config.json                   settings and shapes
    dual_encoder.safetensors      text tower, both projections, temperature
    tokenizer.json, tokenizer_config.json
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import PositiveFloat, PositiveInt, ValidationError
from torch import Tensor, nn

from chatsearch.config import Config
from chatsearch.data.tokenizer import ChatTokenizer
from chatsearch.errors import CorruptArtefactError
from chatsearch.index.vectors import Float32
from chatsearch.kinds import DUAL_ENCODER
from chatsearch.manifest import open_artefact
from chatsearch.model.config import LanguageConfig
from chatsearch.model.language import LanguageModel
from chatsearch.model.tensors import read_tensors, write_tensors
from chatsearch.storage import Folder

CONFIG = "config.json"
TENSORS = "dual_encoder.safetensors"
_MAX_LOG_SCALE = math.log(100.0)


class DualEncoderConfig(Config):
    """Shape of a dual encoder."""

    language: LanguageConfig
    feature_dim: PositiveInt
    retrieval_dim: PositiveInt
    pooling: Literal["last", "mean"]
    max_length: PositiveInt
    tau0: PositiveFloat


class DualEncoder(nn.Module):
    """Both towers. The frozen vision encoder stands outside: f_CLS comes in."""

    def __init__(self, config: DualEncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.text = LanguageModel(config.language)
        self.text_head = nn.Linear(config.language.hidden_size, config.retrieval_dim, bias=False)
        self.image_head = nn.Linear(config.feature_dim, config.retrieval_dim, bias=False)
        self.log_scale = nn.Parameter(torch.tensor(-math.log(config.tau0)))

    @property
    def scale(self) -> Tensor:
        """1 / tau."""
        return self.log_scale.clamp(max=_MAX_LOG_SCALE).exp()

    def text_states(self, ids_BL: Tensor, lengths_B: Tensor) -> Tensor:
        """What is projected of texts that are padded behind their end, (B, H)."""
        num_texts, num_positions = ids_BL.shape
        positions_BL = torch.arange(num_positions, device=ids_BL.device).expand(num_texts, -1)
        hidden_BLH = self.text(self.text.embed(ids_BL), positions_BL)
        if self.config.pooling == "last":
            return hidden_BLH[torch.arange(num_texts, device=ids_BL.device), lengths_B - 1]
        inside_BL1 = (positions_BL < lengths_B[:, None])[..., None].to(hidden_BLH.dtype)
        return (hidden_BLH * inside_BL1).sum(1) / lengths_B[:, None]

    def text_embedding(self, state_BH: Tensor) -> Tensor:
        """Unit vectors (B, d)."""
        return F.normalize(self.text_head(state_BH.float()), dim=-1)

    def image_embedding(self, cls_BD: Tensor) -> Tensor:
        """Unit vectors (B, d)."""
        return F.normalize(self.image_head(cls_BD).float(), dim=-1)


def text_ids(text: str, tokenizer: ChatTokenizer, max_length: int) -> list[int]:
    """Tokens of a text closed by ``</s>``; a longer one is cut, keeping the end."""
    return [*tokenizer.encode(text), tokenizer.eos_id][-max_length:]


def pad(rows: Sequence[Sequence[int]], pad_id: int) -> tuple[Tensor, Tensor]:
    """Ids (B, L) padded behind, and lengths (B)."""
    lengths_B = torch.tensor([len(row) for row in rows])
    ids_BL = torch.full((len(rows), int(lengths_B.max())), pad_id)
    for number, row in enumerate(rows):
        ids_BL[number, : len(row)] = torch.tensor(row)
    return ids_BL, lengths_B


def text_states(network: DualEncoder, rows: Sequence[Sequence[int]], pad_id: int, *, group_size: int) -> Tensor:
    """States (B, H) of token rows, in their order.

    Rows run in groups of similar length: padded to the longest of all, dialogues would be more padding than words.
    """
    by_length = sorted(range(len(rows)), key=lambda row: len(rows[row]))
    groups = [by_length[start : start + group_size] for start in range(0, len(rows), group_size)]
    states_BH = torch.cat([network.text_states(*pad([rows[row] for row in group], pad_id)) for group in groups])
    places = torch.empty(len(rows), dtype=torch.long)
    places[torch.tensor(by_length)] = torch.arange(len(rows))
    return states_BH[places]


def symmetric_loss(text_Bd: Tensor, image_Bd: Tensor, scale: Tensor, images: Sequence[str]) -> Tensor:
    """InfoNCE both ways over the batch (CLIP, arXiv 2103.00020, figure 3).

    Two texts of one picture are no negatives of each other: ``images`` are content hashes.
    """
    logits_BB = scale * text_Bd @ image_Bd.T
    same_BB = torch.tensor([[a == b for b in images] for a in images], device=logits_BB.device)
    same_BB.fill_diagonal_(False)
    logits_BB = logits_BB.masked_fill(same_BB, -torch.inf)
    wanted_B = torch.arange(len(images), device=logits_BB.device)
    return (F.cross_entropy(logits_BB, wanted_B) + F.cross_entropy(logits_BB.T, wanted_B)) / 2


@dataclass(frozen=True)
class TrainedDualEncoder:
    """A dual encoder, opened."""

    network: DualEncoder
    tokenizer: ChatTokenizer
    uri: str
    fingerprint: str
    encoder_fingerprint: str
    """Of the frozen vision encoder whose features it reads."""

    @torch.inference_mode()
    def texts(self, texts: Sequence[str], *, batch_size: int = 64) -> Float32:
        """Unit vectors of texts, in their order."""
        rows = [text_ids(text, self.tokenizer, self.network.config.max_length) for text in texts]
        states_BH = text_states(self.network, rows, self.tokenizer.pad_id, group_size=batch_size)
        return self.network.text_embedding(states_BH).numpy()

    @torch.inference_mode()
    def images(self, features_ND: Float32) -> Float32:
        """Unit vectors of pictures from their raw f_CLS."""
        return self.network.image_embedding(torch.from_numpy(np.ascontiguousarray(features_ND))).numpy()


def write_dual_encoder(folder: Folder, network: DualEncoder, tokenizer: ChatTokenizer) -> None:
    """Write all files but the manifest."""
    write_tensors(folder, TENSORS, _stored(network))
    tokenizer.save(folder)
    folder.write_bytes(CONFIG, json.dumps(network.config.model_dump(mode="json"), indent=1).encode())


def load_dual_encoder(uri: str) -> TrainedDualEncoder:
    """Open a trained dual encoder; every file read is checked against the manifest.

    Raises:
        ArtefactError: nothing finished lies there, or a file is damaged.
    """
    artefact = open_artefact(uri, DUAL_ENCODER)
    try:
        config = DualEncoderConfig.model_validate_json(artefact.folder.read_bytes(CONFIG))
    except ValidationError as error:
        raise CorruptArtefactError(
            f"{artefact.folder.path(CONFIG)} does not describe a dual encoder: {error.errors()[0]['msg']}. Train it again."
        ) from error
    network = DualEncoder(config)
    tensors = read_tensors(artefact, TENSORS)
    expected = {name: tensor.shape for name, tensor in _stored(network).items()}
    if {name: tensor.shape for name, tensor in tensors.items()} != expected:
        raise CorruptArtefactError(f"{artefact.folder.path(TENSORS)} does not fit its configuration. Train it again.")
    network.load_state_dict(tensors, strict=False)  # complete, as just checked; the word head is not stored
    return TrainedDualEncoder(
        network.eval(),
        ChatTokenizer.load(artefact.folder),
        artefact.uri,
        artefact.fingerprint,
        artefact.manifest.facts["encoder_fingerprint"],
    )


def _stored(network: DualEncoder) -> dict[str, Tensor]:
    """Tensors without the language model's word head and control tokens: nothing here speaks or shows pictures."""
    unused = ("text.head_VH", "text.control_2H", "text.control_head_2H")
    return {name: tensor for name, tensor in network.state_dict().items() if name not in unused}
