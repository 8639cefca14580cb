"""Encoding one micro-shard: pictures decoded, run through the frozen encoder, written as one part file.

Runs inside an actor: importing this module is cheap, torch and the encoder come with the first actor built.
Shape suffixes: B pictures of a batch, N pictures of the part, D width of f_CLS, T tokens, E their width, H and W pixels.
"""

from __future__ import annotations

import io
import json
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from chatsearch.corpora.images import decode_rgb
from chatsearch.data.shards import ImageStore
from chatsearch.errors import BadImageError
from chatsearch.index.config import EmbedConfig
from chatsearch.index.features import part_name, rejected_name, thumbnails_name, write_part, write_thumbnails
from chatsearch.index.reuse import EarlierRows
from chatsearch.storage import Folder

if TYPE_CHECKING:
    from torch import Tensor

    from chatsearch.model.vision import VisionEncoder

_THUMBNAIL_QUALITY = 80
"""Of the JPEG: some 15 kB at 256 pixels, 300 kB at 512 pixels of noise."""


class _Decoded(NamedTuple):
    """A picture made ready."""

    pixels: Tensor
    thumbnail: bytes


@dataclass
class _Part:
    """Rows of a part in the making, in the order of its pictures."""

    hashes: Sequence[str]
    cls_ND: NDArray[np.floating]
    tokens_NTE: NDArray[np.float16] | None
    thumbnails: list[bytes]
    is_kept_N: NDArray[np.bool_]
    rejected: list[tuple[int, str]] = field(default_factory=list)
    """Row and reason."""

    @classmethod
    def empty(cls, hashes: Sequence[str], encoder: VisionEncoder, config: EmbedConfig) -> _Part:
        """No row yet."""
        number, vision = len(hashes), encoder.config
        tokens_NTE = np.empty((number, vision.num_tokens, vision.token_dim), np.float16) if config.tokens else None
        cls_ND = np.empty((number, vision.feature_dim), config.dtype)
        return cls(hashes, cls_ND, tokens_NTE, [b""] * number, np.zeros(number, dtype=bool))


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

    @cached_property
    def _earlier(self) -> EarlierRows:
        return EarlierRows(self._config.reuse)

    def __call__(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Make the part of a Ray Data row unless it is there: of an actor killed behind its last step Ray does not know that it was done.

        Args:
            row: the part's number, its content hashes, the store that holds each, and for each the part file and row of an
                earlier feature store that has its features, or -1.

        Returns:
            The part's number and how many pictures were dealt with.
        """
        if not self._folder.exists(part_name(row["part"])):
            self.make(row)
        return {"part": row["part"], "pictures": len(row["hashes"])}

    def make(self, row: Mapping[str, Any]) -> None:
        """Make the part of a row, see :meth:`__call__`."""
        made = _Part.empty(list(row["hashes"]), self._encoder, self._config)
        self._copy(made, np.array([row["earlier_parts"], row["earlier_rows"]], dtype=np.int64).T)
        self._encode_rest(made, row["stores"])
        self._write(row["part"], made)

    def _copy(self, made: _Part, places_N2: NDArray[np.int64]) -> None:
        """Take the rows that earlier stores hold."""
        for number in np.unique(places_N2[places_N2[:, 0] >= 0, 0]).tolist():
            rows = np.flatnonzero(places_N2[:, 0] == number)
            taken = places_N2[rows, 1]
            earlier = self._earlier.part(number)
            made.cls_ND[rows] = earlier.cls_ND[taken]
            if made.tokens_NTE is not None and earlier.tokens_NTE is not None:
                made.tokens_NTE[rows] = earlier.tokens_NTE[taken]
            if self._config.thumbnail_px and earlier.thumbnails is not None:
                for to, where in zip(rows.tolist(), taken.tolist(), strict=True):
                    made.thumbnails[to] = earlier.thumbnails[where]
            made.is_kept_N[rows] = True

    def _encode_rest(self, made: _Part, stores: Sequence[int]) -> None:
        """Encode the pictures whose rows are not there yet, setting bad ones aside."""
        for batch in self._batches(made, stores):
            good = [(row, picture) for row, picture in batch if isinstance(picture, _Decoded)]
            made.rejected += [(row, reason) for row, reason in batch if isinstance(reason, str)]
            if not good:
                continue
            rows = np.array([row for row, _ in good])
            cls_BD, tokens_BTE = self._encode([picture.pixels for _, picture in good])
            with np.errstate(over="ignore"):
                made.cls_ND[rows] = cls_BD
            if made.tokens_NTE is not None:
                made.tokens_NTE[rows] = tokens_BTE
            for row, picture in good:
                made.thumbnails[row] = picture.thumbnail
            made.is_kept_N[rows] = np.isfinite(made.cls_ND[rows]).all(axis=1)
            for place in np.flatnonzero(~made.is_kept_N[rows]):
                made.rejected.append((int(rows[place]), _why_unfit(cls_BD[place])))

    def _batches(self, made: _Part, stores: Sequence[int]) -> Iterator[list[tuple[int, _Decoded | str]]]:
        """Batches of (row, picture or why there is none); the next two are decoded while one is used."""
        size, opened = self._config.batch_size, self._stores
        missing = iter(np.flatnonzero(~made.is_kept_N).tolist())
        ahead: deque[tuple[int, Future[_Decoded | str]]] = deque()

        def decode_ahead() -> None:
            for row in islice(missing, 2 * size - len(ahead)):
                ahead.append((row, self._threads.submit(self._decode, opened[stores[row]], made.hashes[row])))

        decode_ahead()
        while ahead:
            batch = [ahead.popleft() for _ in range(min(size, len(ahead)))]
            decode_ahead()
            yield [(row, picture.result()) for row, picture in batch]

    def _decode(self, store: ImageStore, content_hash: str) -> _Decoded | str:
        data = store.get(content_hash)
        try:
            image = decode_rgb(data)
        except BadImageError as error:
            return str(error)
        pixels = self._encoder.preprocess(image)
        return _Decoded(pixels, _thumbnail(image, self._config.thumbnail_px) if self._config.thumbnail_px else b"")

    def _encode(self, pixels: Sequence[Tensor]) -> tuple[np.ndarray, np.ndarray | None]:
        """Features of up to ``batch_size`` pictures, always computed with so many: see :class:`EmbedConfig`."""
        import torch

        batch_B3HW = torch.zeros((self._config.batch_size, *pixels[0].shape), dtype=torch.uint8)
        torch.stack(list(pixels), out=batch_B3HW[: len(pixels)])
        with torch.inference_mode():
            features = self._encoder(batch_B3HW.to(self._device))
        tokens_BTE = None
        if self._config.tokens:
            tokens_BTE = features.tokens_BTE[: len(pixels)].to(torch.float16).cpu().numpy()
        return features.cls_BD[: len(pixels)].float().cpu().numpy(), tokens_BTE

    def _write(self, part: int, made: _Part) -> None:
        rows = np.flatnonzero(made.is_kept_N)
        hashes = [made.hashes[row] for row in rows.tolist()]
        if made.rejected:
            lines = [
                json.dumps({"key": made.hashes[row], "reason": reason}) + "\n" for row, reason in sorted(made.rejected)
            ]
            self._folder.write_bytes(rejected_name(part), "".join(lines).encode())
        if self._config.thumbnail_px:
            with self._folder.writing(thumbnails_name(part)) as path:
                write_thumbnails(path, hashes, [made.thumbnails[row] for row in rows])
        # Last: that this file is there says that the part is done.
        with self._folder.writing(part_name(part)) as path:
            write_part(path, hashes, made.cls_ND[rows], None if made.tokens_NTE is None else made.tokens_NTE[rows])


def make_here(
    config: EmbedConfig, rows: Iterable[Mapping[str, Any]], encoder: type[PartEncoder] = PartEncoder
) -> Iterator[dict[str, Any]]:
    """Make parts one after the other in this process, without a cluster; yields what each call says."""
    return map(encoder(config), rows)


def _why_unfit(cls_D: np.ndarray) -> str:
    """Why a row cannot be stored."""
    if np.isfinite(cls_D).all():
        return (
            f"The encoder's features reach {np.abs(cls_D).max():g}, float16 ends at {np.finfo(np.float16).max:g}. Embed with "
            "dtype=float32."
        )
    return "The encoder's features are not finite."


def _thumbnail(image: Image.Image, longest: int) -> bytes:
    """A JPEG whose longer side has so many pixels at most."""
    scale = min(1.0, longest / max(image.size))
    width, height = (max(1, round(side * scale)) for side in image.size)
    buffer = io.BytesIO()
    image.resize((width, height), reducing_gap=2).save(buffer, "JPEG", quality=_THUMBNAIL_QUALITY)
    return buffer.getvalue()
