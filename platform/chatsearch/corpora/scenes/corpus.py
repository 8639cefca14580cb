"""The scenes world as a corpus. Every document is a function of (seed, split, kind, number), whoever makes it."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence

from chatsearch.config import digest
from chatsearch.corpora.base import Partition, Rejected, Sample
from chatsearch.corpora.config import ScenesConfig
from chatsearch.corpora.scenes.captions import captions, prose, story
from chatsearch.corpora.scenes.draw import encode
from chatsearch.corpora.scenes.families import SAMPLERS, WorldKey, family
from chatsearch.corpora.scenes.questions import about_picture, about_world
from chatsearch.corpora.scenes.vocabulary import WORLD_VERSION
from chatsearch.corpora.scenes.world import Scene
from chatsearch.types import Document, Kind, Role, Segment, content_hash

_DOCUMENTS_PER_PARTITION = 256
_CHAT = (Kind.T, Kind.I, Kind.M)


class ScenesCorpus:
    """Reader of the synthetic scenes world."""

    name = "scenes"

    def __init__(self, config: ScenesConfig) -> None:
        self.config = config
        self._key = WorldKey(config.seed, config.split)

    def fingerprint(self) -> str:
        """Hash of the configuration and the version of the world."""
        return digest(self.name, WORLD_VERSION, self.config.content())

    def partitions(self) -> list[Partition]:
        """Runs of consecutive documents of one kind; for the gallery, runs of families."""
        counts = self.config.kinds
        runs: list[dict[str, object]] = []
        for kind in (Kind.CAPTION, Kind.INTERLEAVED, Kind.TEXT, Kind.QUESTION, Kind.EDIT, *_CHAT):
            runs += self._runs(kind, "", getattr(counts, kind.value))
        if counts.gallery is not None:
            for of, number in self._families().items():
                runs += self._runs(Kind.GALLERY, of, number)
            runs += self._runs(Kind.GALLERY, "extra", counts.gallery)
        return [Partition(index, payload) for index, payload in enumerate(runs)]

    def _runs(self, kind: Kind, of: str, count: int) -> list[dict[str, object]]:
        # A family holds many pictures, so fewer families make a share of the same size.
        size = _DOCUMENTS_PER_PARTITION if kind != Kind.GALLERY or of == "extra" else 32
        return [
            {"kind": kind.value, "of": of, "start": start, "stop": min(start + size, count)}
            for start in range(0, count, size)
        ]

    def _families(self) -> dict[str, int]:
        counts = self.config.kinds
        return {kind.value: getattr(counts, kind.value) for kind in _CHAT}

    def read(self, partition: Partition) -> Iterator[Sample | Rejected]:
        """The documents of one share; this corpus rejects nothing."""
        payload = partition.payload
        kind, numbers = Kind(payload["kind"]), range(payload["start"], payload["stop"])
        if kind == Kind.GALLERY:
            yield from self._gallery(payload["of"], numbers)
            return
        for number in numbers:
            yield self._document(kind, number)

    def _document(self, kind: Kind, number: int) -> Sample:
        if kind in SAMPLERS:
            return self._chat(kind, number)
        rng = self._key.rng(kind, number, "words")
        scene = self._key.scene(kind, number)
        none, user, assistant = Role.NONE, Role.USER, Role.ASSISTANT
        attributes: dict[str, str] = {}
        if kind == Kind.CAPTION:
            texts = captions(scene, rng)
            attributes["captions"] = json.dumps(texts)
            parts: list[tuple[Role, str | Scene]] = [(none, scene), *((none, text) for text in texts)]
        elif kind == Kind.INTERLEAVED:
            sentences, scenes = story(scene, self.config.split, rng)
            parts = [(none, part) for pair in zip(sentences, scenes, strict=True) for part in pair]
        elif kind == Kind.TEXT:
            parts = [(none, prose(scene, rng))]
        else:
            parts = _questions(scene, rng, user, assistant)
        return self._sample(kind, number, parts, attributes)

    def _chat(self, kind: Kind, number: int) -> Sample:
        sample = SAMPLERS[kind](self._key, number)
        target = sample.scenes[-1]
        attributes = {
            "sub_task": kind.value.removeprefix("chatsearch_"),
            "pipeline": sample.pipeline,
            "target_id": target.item_id,
            "stated": json.dumps([[fact.to_list() for fact in facts] for facts in sample.stated]),
            "wanted": json.dumps([fact.to_list() for fact in sample.wanted]),
            "edits": json.dumps([[edit.to_dict() for edit in edits] for edits in sample.edits]),
        }
        return self._sample(kind, number, sample.turns, attributes)

    def _sample(
        self, kind: Kind, number: int, parts: Sequence[tuple[Role, str | Scene]], attributes: dict[str, str]
    ) -> Sample:
        segments, images, truth = [], {}, []
        for role, part in parts:
            loss = role != Role.USER
            if isinstance(part, Scene):
                data = encode(part, self.config.image_size)
                images[content_hash(data)] = data
                truth.append(part.to_dict())
                segments.append(Segment(image=content_hash(data), role=role, loss=loss))
            else:
                segments.append(Segment(text=part, role=role, loss=loss))
        attributes = {**attributes, "truth": json.dumps(truth)} if truth else attributes
        document_id = f"scenes/{self.config.split}/{self.config.seed}/{kind.value}/{number}"
        document = Document(document_id, kind, tuple(segments), self.name, self.config.split, attributes)
        return Sample(document, images)

    def _gallery(self, of: str, numbers: range) -> Iterator[Sample]:
        if of == "extra":
            for number in numbers:
                yield self._gallery_item(self._key.scene("extra", number), "")
            return
        for number in numbers:
            for scene in self._family(Kind(of), number):
                yield self._gallery_item(scene, Kind(of).value.removeprefix("chatsearch_"))

    def _family(self, kind: Kind, number: int) -> list[Scene]:
        """A family; what the i family of a paired m sample holds already is left to that one."""
        scenes = family(self._key, kind, number, self.config.num_distractors)
        if kind == Kind.M and self.config.split != "train" and number < self.config.kinds.chatsearch_i:
            seen = set(family(self._key, Kind.I, number, self.config.num_distractors))
            return [scene for scene in scenes if scene not in seen]
        return scenes

    def _gallery_item(self, scene: Scene, sub_task: str) -> Sample:
        data = encode(scene, self.config.image_size)
        name = content_hash(data)
        attributes = {"truth": json.dumps([scene.to_dict()]), "sub_task": sub_task}
        segment = Segment(image=name)
        document = Document(scene.item_id, Kind.GALLERY, (segment,), self.name, self.config.split, attributes)
        return Sample(document, {name: data})


def _questions(scene: Scene, rng: random.Random, user: Role, assistant: Role) -> list[tuple[Role, str | Scene]]:
    if rng.random() < 0.2:
        return [
            part for _ in range(rng.randint(1, 2)) for part in zip((user, assistant), about_world(rng), strict=True)
        ]
    asked = dict(about_picture(scene, rng) for _ in range(rng.randint(1, 3)))
    rounds = [part for pair in asked.items() for part in zip((user, assistant), pair, strict=True)]
    return [(user, scene), *rounds]
