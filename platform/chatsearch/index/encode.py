"""Encoding one micro-shard: pictures decoded, run through the frozen encoder, written as one part file.

Runs inside an actor: importing this module is cheap, torch and the encoder come with the first actor built.
Shape suffixes: B pictures of a batch, N pictures of the part, D width of f_CLS, T tokens, E their width, H and W pixels.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
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


class PartEncoder:
    """Holds the encoder and the open image stores; each call makes one part."""

    def __init__(self, config: EmbedConfig) -> None:
        import torch

        from chatsearch.model.bundle import load_vision

        torch.set_num_threads(max(1, int(config.cpus_per_actor)))
        self._config = config
        self._device = torch.device("cuda" if config.gpus_per_actor else "cpu")
        self._encoder = load_vision(config.model).to(self._device)
        self._stores = [ImageStore.open(uri) for uri in config.gallery]
        self._folder = Folder(config.output)
        self._threads = ThreadPoolExecutor(config.decode_threads, thread_name_prefix="decode")

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
        ahead: list[Any] = []
        for start in range(0, len(hashes), size):
            names = hashes[start : start + size]
            futures = [
                self._threads.submit(self._pixels, name, store)
                for name, store in zip(names, stores[start : start + size], strict=True)
            ]
            ahead.append((names, futures))
            if len(ahead) > 1:
                yield _collect(*ahead.pop(0))
        for names, futures in ahead:
            yield _collect(names, futures)

    def _pixels(self, content_hash: str, store: int) -> Tensor | str:
        data = self._stores[store].get(content_hash)
        try:
            return self._encoder.preprocess(decode_rgb(data))
        except BadImageError as error:
            return str(error)

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


def _collect(names: Sequence[str], futures: Sequence[Any]) -> list[tuple[str, Any]]:
    return [(name, future.result()) for name, future in zip(names, futures, strict=True)]
