"""What the trained baselines share: a language model's state and f_CLS, each through a linear map into one space.

Shapes: B texts, H hidden width, D width of f_CLS, d retrieval width.

    config.json                   settings and shapes
    NAME.safetensors              all tensors that are used, the language model's among them
    tokenizer.json, tokenizer_config.json
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence, Sized
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import PositiveFloat, PositiveInt, ValidationError
from torch import Tensor, nn

from chatsearch.config import Config
from chatsearch.data.tokenizer import ChatTokenizer
from chatsearch.errors import CorruptArtefactError
from chatsearch.index.vectors import Float32
from chatsearch.manifest import open_artefact
from chatsearch.model.config import LanguageConfig
from chatsearch.model.language import LanguageModel
from chatsearch.model.tensors import read_tensors, write_tensors
from chatsearch.storage import Folder

CONFIG = "config.json"
GROUP_SIZE = 16
"""Rows of similar length that run together in training."""
_MAX_LOG_SCALE = math.log(100.0)
_CONTROL = ("text.control_2H", "text.control_head_2H")
_WORD_HEAD = "text.head_VH"


class ContrastiveConfig(Config):
    """Shape of a baseline."""

    language: LanguageConfig
    feature_dim: PositiveInt
    retrieval_dim: PositiveInt
    max_length: PositiveInt
    tau0: PositiveFloat


class ContrastiveModel(nn.Module):
    """Language model and both maps. The frozen vision encoder stands outside: f_CLS comes in."""

    def __init__(self, config: ContrastiveConfig) -> None:
        super().__init__()
        self.text = LanguageModel(config.language)
        self.text_head = nn.Linear(config.language.hidden_size, config.retrieval_dim, bias=False)
        self.image_head = nn.Linear(config.feature_dim, config.retrieval_dim, bias=False)
        self.log_scale = nn.Parameter(torch.tensor(-math.log(config.tau0)))

    @property
    def scale(self) -> Tensor:
        """1 / tau."""
        return self.log_scale.clamp(max=_MAX_LOG_SCALE).exp()

    def text_embedding(self, state_BH: Tensor) -> Tensor:
        """Unit vectors (B, d)."""
        return F.normalize(self.text_head(state_BH.float()), dim=-1)

    def image_embedding(self, cls_BD: Tensor) -> Tensor:
        """Unit vectors (B, d)."""
        return F.normalize(self.image_head(cls_BD).float(), dim=-1)

    def stored(self) -> dict[str, Tensor]:
        """Tensors without the word head and the control tokens of ours: queries need neither."""
        return {name: t for name, t in self.state_dict().items() if name not in (*_CONTROL, _WORD_HEAD)}


Row = TypeVar("Row", bound=Sized)
Network = TypeVar("Network", bound=ContrastiveModel)
Shape = TypeVar("Shape", bound=ContrastiveConfig)


def states_by_length(rows: Sequence[Row], states: Callable[[Sequence[Row]], Tensor], group_size: int) -> Tensor:
    """States (B, H) of rows, in their order.

    Rows run in groups of similar length: padded to the longest of all, dialogues would be more padding than words.
    """
    by_length = sorted(range(len(rows)), key=lambda row: len(rows[row]))
    groups = [by_length[start : start + group_size] for start in range(0, len(rows), group_size)]
    states_BH = torch.cat([states([rows[row] for row in group]) for group in groups])
    places = torch.empty(len(rows), dtype=torch.long)
    places[torch.tensor(by_length)] = torch.arange(len(rows))
    return states_BH[places]


def pad(rows: Sequence[Sequence[int]], pad_id: int) -> tuple[Tensor, Tensor]:
    """Ids (B, L) padded behind, and lengths (B)."""
    lengths_B = torch.tensor([len(row) for row in rows])
    ids_BL = torch.full((len(rows), int(lengths_B.max())), pad_id)
    for number, row in enumerate(rows):
        ids_BL[number, : len(row)] = torch.tensor(row)
    return ids_BL, lengths_B


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
class Trained(Generic[Network]):
    """A trained baseline, opened."""

    network: Network
    tokenizer: ChatTokenizer
    uri: str
    fingerprint: str
    encoder_fingerprint: str
    """Of the frozen vision encoder whose features it reads."""

    @torch.inference_mode()
    def images(self, features_ND: Float32) -> Float32:
        """Unit vectors of pictures from their raw f_CLS."""
        return self.network.image_embedding(torch.from_numpy(np.ascontiguousarray(features_ND))).numpy()


@dataclass(frozen=True)
class Format(Generic[Shape, Network]):
    """How one baseline is kept.

    Attributes:
        kind: of the artefact.
        tensors: name of the safetensors file.
        title: what messages call it.
        shape: its configuration.
        network: from that configuration.
    """

    kind: str
    tensors: str
    title: str
    shape: type[Shape]
    network: Callable[[Shape], Network]

    def write(self, folder: Folder, config: Shape, network: Network, tokenizer: ChatTokenizer) -> None:
        """Write all files but the manifest."""
        write_tensors(folder, self.tensors, network.stored())
        tokenizer.save(folder)
        folder.write_bytes(CONFIG, json.dumps(config.model_dump(mode="json"), indent=1).encode())

    def open(self, uri: str) -> Trained[Network]:
        """Open what was trained; every file read is checked against the manifest.

        Raises:
            ArtefactError: nothing finished lies there, or a file is damaged.
        """
        artefact = open_artefact(uri, self.kind)
        try:
            config = self.shape.model_validate_json(artefact.read_checked(CONFIG))
        except ValidationError as error:
            raise CorruptArtefactError(
                f"{artefact.folder.path(CONFIG)} does not describe a {self.title}: {error.errors()[0]['msg']}. Train it again."
            ) from error
        network = self.network(config)
        tensors = read_tensors(artefact, self.tensors)
        expected = {name: tensor.shape for name, tensor in network.stored().items()}
        if {name: tensor.shape for name, tensor in tensors.items()} != expected:
            raise CorruptArtefactError(
                f"{artefact.folder.path(self.tensors)} does not fit its configuration. Train it again."
            )
        network.load_state_dict(tensors, strict=False)  # complete, as just checked; what is not used is not stored
        return Trained(
            network.eval(),
            ChatTokenizer.load_checked(artefact),
            artefact.uri,
            artefact.fingerprint,
            artefact.manifest.facts["encoder_fingerprint"],
        )
