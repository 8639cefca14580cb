"""Encoding one micro-shard: pictures decoded, run through the frozen encoder, written as one part file.

Runs inside an actor: importing this module is cheap, torch and the encoder come with the first actor built.
Shape suffixes: B pictures of a batch, N pictures of the part, D width of f_CLS, T tokens, E their width, H and W pixels.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from chatsearch.corpora.images import decode_rgb
from chatsearch.data.shards import ImageStore
from chatsearch.errors import BadImageError
from chatsearch.index.config import EmbedConfig
from chatsearch.index.features import part_name, rejected_name, write_part
from chatsearch.storage import Folder

if TYPE_CHECKING:
    from torch import Tensor

    from chatsearch.model.vision import VisionEncoder


class PartEncoder:
    """Holds the encoder and the open image stores; each call makes one part.

    Both are opened by the first call: an error in a call comes back whole, one in an actor's constructor only as text.
    """

    def __init__(self, config: EmbedConfig) -> None:
        self._config = config
        self._device = "cuda" if config.gpus_per_actor else "cpu"
        self._folder = Folder(config.output)
        self._threads = ThreadPoolExecutor(config.decode_threads, thread_name_prefix="decode")

    @cached_property
    def _encoder(self) -> VisionEncoder:
        import torch

        from chatsearch.model.frozen_encoder import load_vision

        torch.set_num_threads(max(1, int(self._config.cpus_per_actor)))
        return load_vision(self._config.model).to(self._device)

    @cached_property
    def _stores(self) -> list[ImageStore]:
        return [ImageStore.open(uri) for uri in self._config.gallery]

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Make the part of a Ray Data row: its number, content hashes and the store that holds each.

        Returns:
            The part's number, and how many pictures it kept and set aside.
        """
        part: int = row["part"]
        hashes: Sequence[str] = list(row["hashes"])
        kept: list[str] = []
        cls_parts, token_parts = [], []
        rejected: list[tuple[str, str]] = []
        for batch in self._batches(hashes, row["stores"]):
            good = [(name, pixels) for name, pixels in batch if not isinstance(pixels, str)]
            rejected += [(name, reason) for name, reason in batch if isinstance(reason, str)]
            if not good:
                continue
            cls_BD, tokens_BTE = self._encode([pixels for _, pixels in good])
            finite_B = np.isfinite(cls_BD).all(axis=1)
            rejected += [(good[i][0], "The encoder's features are not finite.") for i in np.flatnonzero(~finite_B)]
            kept += [good[i][0] for i in np.flatnonzero(finite_B)]
            cls_parts.append(cls_BD[finite_B])
            if tokens_BTE is not None:
                token_parts.append(tokens_BTE[finite_B])
        self._write(part, kept, cls_parts, token_parts, rejected)
        return {"part": part, "kept": len(kept), "rejected": len(rejected)}

    def _batches(self, hashes: Sequence[str], stores: Sequence[int]) -> Iterator[list[tuple[str, Tensor | str]]]:
        """Batches of (content hash, pixels or why there are none); the next one is decoded while this one is used."""
        size = self._config.batch_size
        encoder, opened = self._encoder, self._stores
        ahead: list[list[tuple[str, Future[Tensor | str]]]] = []
        for start in range(0, len(hashes), size):
            places = zip(hashes[start : start + size], stores[start : start + size], strict=True)
            ahead.append([(name, self._threads.submit(_pixels, encoder, opened[at], name)) for name, at in places])
            if len(ahead) > 1:
                yield [(name, future.result()) for name, future in ahead.pop(0)]
        for batch in ahead:
            yield [(name, future.result()) for name, future in batch]

    def _encode(self, pixels: Sequence[Tensor]) -> tuple[np.ndarray, np.ndarray | None]:
        import torch

        with torch.inference_mode():
            features = self._encoder(torch.stack(list(pixels)).to(self._device))
        tokens_BTE = features.tokens_BTE.to(torch.float16).cpu().numpy() if self._config.tokens else None
        return features.cls_BD.float().cpu().numpy(), tokens_BTE

    def _write(
        self,
        part: int,
        kept: list[str],
        cls_parts: list[np.ndarray],
        token_parts: list[np.ndarray],
        rejected: list[tuple[str, str]],
    ) -> None:
        vision = self._encoder.config
        cls_ND = np.concatenate([np.empty((0, vision.feature_dim), np.float32), *cls_parts])
        tokens_NTE = None
        if self._config.tokens:
            nothing = np.empty((0, vision.num_tokens, vision.token_dim), np.float16)
            tokens_NTE = np.concatenate([nothing, *token_parts])
        if rejected:
            lines = [json.dumps({"key": key, "reason": reason}) + "\n" for key, reason in rejected]
            self._folder.write_bytes(rejected_name(part), "".join(lines).encode())
        # Last: that this file is there says that the part is done.
        with self._folder.writing(part_name(part)) as path:
            write_part(path, kept, cls_ND, tokens_NTE)


def _pixels(encoder: VisionEncoder, store: ImageStore, content_hash: str) -> Tensor | str:
    data = store.get(content_hash)
    try:
        return encoder.preprocess(decode_rgb(data))
    except BadImageError as error:
        return str(error)
