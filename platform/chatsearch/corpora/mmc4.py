"""Shards of mmc4: web pages as sentences and pictures, a JSON object a line, with CLIP similarities between the two.

A line is ``{"text_list", "image_info": [{"image_name", ...}], "similarity_matrix", "url", ...}``; entry (i, j) of the
matrix is the similarity of picture i and sentence j. Source: Zhu et al., arXiv 2304.06939, and the README of allenai/mmc4.

**Pairing.** mmc4 pairs pictures and sentences by the linear assignment of greatest total similarity, and gives pictures
beyond the number of sentences their best sentence a second time (its ``compute_assignments.py``). The paper wants one
picture a sentence, and of a crawl many pictures are gone, so the assignment is solved again here over the pictures that
are there: where all are, and are no more than the sentences, it is the shipped ``matched_text_index``; a picture that is
gone leaves its sentence to the others; pictures in excess are left out.

**Placing.** Each picture goes before or after its sentence by a fair draw from (seed, document id, picture's name), made
once and kept in the shards. Stage 1 of the paper draws 12.8 million segments out of some 7 million pages, so a second draw
would be seen by few of them.

Shape letters: I pictures, S sentences.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from chatsearch.config import digest
from chatsearch.corpora.base import Partition, Rejected, Sample
from chatsearch.corpora.config import Mmc4Config
from chatsearch.corpora.file_ends import NUM_READS_AT_A_TIME, file_ends
from chatsearch.corpora.json_shards import MAX_LINE_BYTES, BrokenShardError, shard_lines
from chatsearch.corpora.picture_folder import PictureFolder
from chatsearch.errors import BadImageError, MissingInputError
from chatsearch.storage import Folder, resolve
from chatsearch.types import Document, Kind, Segment, content_hash

MAX_IMAGES = 256
"""Of one page: their bytes are held in memory together."""
_FORMAT_VERSION = 1
_SHARD = re.compile(r"(?P<shard>docs_(no_face_)?shard_\d+_v\d+)\.jsonl(\.zip)?")


class ImageInfo(BaseModel):
    """One picture of a page. Other keys are allowed and ignored."""

    model_config = ConfigDict(frozen=True, strict=True)

    image_name: str = Field(min_length=1)


class Page(BaseModel):
    """One line of a shard. Other keys are allowed and ignored."""

    model_config = ConfigDict(frozen=True, strict=True)

    text_list: list[str]
    image_info: list[ImageInfo] = Field(max_length=MAX_IMAGES)
    similarity_matrix: list[list[float]]
    url: str = ""


class _BadPageError(Exception):
    """Why a page is set aside. Never leaves this module."""


class Mmc4Folder:
    """Reader of a folder of shards, or of one shard, with the pictures that were downloaded for them."""

    name = "mmc4"

    def __init__(self, config: Mmc4Config) -> None:
        self.config = config
        path = resolve(config.path)
        if _SHARD.fullmatch(path.rpartition("/")[2]):
            parent, _, name = path.rpartition("/")
            self._folder, names = Folder(parent), [name]
            if not self._folder.exists(name):
                raise MissingInputError(f"Shard {path} is missing. Check the path of the corpus.")
        else:
            self._folder = Folder(path)
            names = [name for name in self._folder.list(recursive=False) if _SHARD.fullmatch(name)]
        # Sorted, a shard's .jsonl comes before its .jsonl.zip: what lies there unpacked is not unpacked again.
        self._shards: dict[str, str] = {}
        for name in names:
            self._shards.setdefault(name.partition(".")[0], name)
        if not self._shards:
            raise MissingInputError(
                f"{self._folder} is missing or holds no shard of mmc4. Check the path of the corpus; shards are named as "
                "published, docs_no_face_shard_0_v3.jsonl.zip or .jsonl."
            )

    def fingerprint(self) -> str:
        """Hash of configuration, names, sizes and ends of the shards, and names and sizes of all pictures.

        Where they lie does not matter. No picture is read: one replaced by another of the very same size goes unnoticed.

        Raises:
            MissingInputError: there is no picture at all.
        """
        folders = list({str(folder): folder for folder in map(self._pictures, self._shards)}.values())
        with ThreadPoolExecutor(NUM_READS_AT_A_TIME) as threads:
            listings = list(threads.map(PictureFolder.listing, folders))
        if not any(num_files for num_files, _ in listings):
            raise MissingInputError(
                f"{folders[0]} is missing or holds no picture. The shards name pictures without holding them: download them "
                "by image_name, as mmc4's download_images.py does, and name their folder with --set corpus.images=FOLDER."
            )
        ends = file_ends(self._folder, list(self._shards.values()))
        return digest(self.name, _FORMAT_VERSION, self.config.content(), ends, listings)

    def _pictures(self, shard: str) -> PictureFolder:
        return PictureFolder.beside(self._folder.uri, self.config.images.replace("{shard}", shard))

    def partitions(self) -> list[Partition]:
        """One a shard."""
        return [Partition(index, {"shard": shard}) for index, shard in enumerate(self._shards)]

    def read(self, partition: Partition) -> Iterator[Sample | Rejected]:
        """The pages of one shard. Pictures that are set aside come before their page."""
        shard = partition.payload["shard"]
        pictures = self._pictures(shard)
        try:
            for number, line in enumerate(shard_lines(self._folder, self._shards[shard]), start=1):
                yield from self._page(f"{shard}/{number}", line, pictures)
        except BrokenShardError as error:
            yield Rejected(
                self._shards[shard],
                f"broken shard: {error}. Fetch it again; what comes before the damage was read.",
            )

    def _page(self, key: str, line: bytes | None, pictures: PictureFolder) -> Iterator[Sample | Rejected]:
        if line is None:
            yield Rejected(key, f"line over {MAX_LINE_BYTES:,} bytes")
            return
        if not line.strip():
            return
        try:
            page, similarity_IS = _parse(line)
        except _BadPageError as error:
            yield Rejected(key, str(error))
            return
        found: dict[int, bytes] = {}
        left_out: dict[int, str] = {}
        for image, info in enumerate(page.image_info):
            try:
                data = pictures.read(info.image_name)
            except BadImageError as error:
                left_out[image] = str(error)
                continue
            if data in found.values():  # copied from the context, it would be no retrieval
                left_out[image] = f"same picture as one before it: {info.image_name!r}"
            else:
                found[image] = data
        pairs, unpaired = self._pairs(page, similarity_IS, list(found))
        for image, reason in sorted((left_out | unpaired).items()):
            yield Rejected(f"{key}#{image}", f"{reason}; this picture is left out")
        if not pairs:
            yield Rejected(key, f"no picture left of {len(page.image_info)}")
            return
        document = self._document(key, page, {sentence: (image, found[image]) for image, sentence in pairs.items()})
        yield Sample(document, {content_hash(found[image]): found[image] for image in pairs})

    def _pairs(
        self, page: Page, similarity_IS: NDArray[np.float64], images: list[int]
    ) -> tuple[dict[int, int], dict[int, str]]:
        """Sentence of each picture that gets one, and why the others do not."""
        sentences = [number for number, text in enumerate(page.text_list) if text.strip()]
        best = pair_up(similarity_IS[np.ix_(images, sentences)])
        pairs: dict[int, int] = {}
        reasons: dict[int, str] = {}
        for row, image in enumerate(images):
            if row not in best:
                reasons[image] = f"{len(images)} pictures for {len(sentences)} sentences"
                continue
            similarity = similarity_IS[image, sentences[best[row]]]
            if similarity < self.config.min_similarity:
                reasons[image] = f"similarity {similarity:.3f}; min_similarity is {self.config.min_similarity}"
            else:
                pairs[image] = sentences[best[row]]
        return pairs, reasons

    def _document(self, key: str, page: Page, placed: dict[int, tuple[int, bytes]]) -> Document:
        segments: list[Segment] = []
        for sentence, text in enumerate(page.text_list):
            if not text.strip():
                continue
            block = [Segment(text.strip())]
            if sentence in placed:
                image, data = placed[sentence]
                draw = random.Random(f"{self.config.seed}/{key}/{page.image_info[image].image_name}")
                block.insert(draw.randrange(2), Segment(image=content_hash(data)))
            segments += block
        return Document(key, Kind.INTERLEAVED, tuple(segments), self.name, self.config.split, {"url": page.url})


def pair_up(similarity_IS: NDArray[np.float64]) -> dict[int, int]:
    """The one-to-one pairing of greatest total similarity: min(I, S) pairs, column by row."""
    from scipy.optimize import linear_sum_assignment

    rows, columns = linear_sum_assignment(similarity_IS, maximize=True)
    return dict(zip(rows.tolist(), columns.tolist(), strict=True))


def _parse(line: bytes) -> tuple[Page, NDArray[np.float64]]:
    try:
        page = Page.model_validate_json(line)
    except ValidationError as error:
        problem = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(str(part) for part in problem["loc"]) or "the line"
        raise _BadPageError(f"bad record: {where}: {problem['msg']}") from error
    shape = len(page.image_info), len(page.text_list)
    lengths = {len(row) for row in page.similarity_matrix} or {shape[1]}
    if len(page.similarity_matrix) != shape[0] or lengths != {shape[1]}:
        raise _BadPageError(
            f"bad record: similarity_matrix has {len(page.similarity_matrix)} rows of {sorted(lengths)} numbers; "
            f"{shape[0]} pictures and {shape[1]} sentences need {shape[0]} rows of {shape[1]}"
        )
    similarity_IS = np.array(page.similarity_matrix, dtype=np.float64).reshape(shape)
    if not (np.abs(similarity_IS) <= 1.001).all():  # cosines, a little rounded; false of NaN
        raise _BadPageError("bad record: similarity_matrix holds a number that is not between -1 and 1")
    return page, similarity_IS
