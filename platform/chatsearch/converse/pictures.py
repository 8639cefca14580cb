"""Pictures of a context as features of the frozen vision encoder.

Shapes: I pictures, D numbers of f_CLS, T tokens of width E.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

import torch
from torch import Tensor

from chatsearch.corpora.images import decode_rgb

if TYPE_CHECKING:
    from chatsearch.model.vision import VisionEncoder


class PictureSource(Protocol):
    """Encoded bytes of the gallery's pictures."""

    def get(self, content_hash: str, /) -> bytes:
        """The encoded picture; raises MissingInputError if it is not there."""


class PictureFeatures(NamedTuple):
    """Features of some pictures, in the order they were asked for."""

    cls_ID: Tensor
    tokens_ITE: Tensor


class PictureEncoder:
    """Encodes pictures, and keeps the features of gallery pictures, the least recently used leaving first.

    Uploaded pictures are never kept: how fast an answer comes must not tell anybody what others have uploaded.
    """

    def __init__(self, vision: VisionEncoder, source: PictureSource, *, max_kept: int = 1024) -> None:
        self._vision = vision
        self._source = source
        self._max_kept = max_kept
        self._device = next(vision.parameters()).device
        self._kept: OrderedDict[str, tuple[Tensor, Tensor]] = OrderedDict()
        self._lock = threading.Lock()

    def encode(self, hashes: Sequence[str], uploads: Mapping[str, bytes] | None = None) -> PictureFeatures:
        """Features of the pictures with these content hashes; uploads are looked up before the gallery.

        Raises:
            MissingInputError: a picture is neither uploaded nor in the gallery.
            BadImageError: a picture cannot be decoded.
        """
        uploads = uploads or {}
        found: dict[str, tuple[Tensor, Tensor]] = {}
        with self._lock:
            for content_hash in hashes:
                if content_hash in self._kept and content_hash not in uploads:
                    self._kept.move_to_end(content_hash)
                    found[content_hash] = self._kept[content_hash]
        missing = [h for h in dict.fromkeys(hashes) if h not in found]
        if missing:
            data = [uploads[h] if h in uploads else self._source.get(h) for h in missing]
            found.update(zip(missing, self._run(data), strict=True))
            self._keep({h: found[h] for h in missing if h not in uploads})
        if not hashes:
            return PictureFeatures(torch.empty(0), torch.empty(0))
        return PictureFeatures(torch.stack([found[h][0] for h in hashes]), torch.stack([found[h][1] for h in hashes]))

    @torch.inference_mode()
    def _run(self, data: Sequence[bytes]) -> list[tuple[Tensor, Tensor]]:
        pixels_I3HW = torch.stack([self._vision.preprocess(decode_rgb(picture)) for picture in data])
        features = self._vision(pixels_I3HW.to(self._device))
        return list(zip(features.cls_BD, features.tokens_BTE, strict=True))

    def _keep(self, features: Mapping[str, tuple[Tensor, Tensor]]) -> None:
        with self._lock:
            self._kept.update(features)
            while len(self._kept) > self._max_kept:
                self._kept.popitem(last=False)
