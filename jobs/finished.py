"""Whether a job's output is finished already, told from manifests alone: no Ray, no torch, no data is read."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from chatsearch.config import Config
from chatsearch.corpora.config import CorpusConfig, ScenesConfig
from chatsearch.corpora.open import open_corpus
from chatsearch.errors import ChatSearchError
from chatsearch.index.live.place import holds_gallery
from chatsearch.manifest import fingerprint, input_uris, open_artefact, read_manifest
from chatsearch.storage import Folder

_FINGERPRINT = re.compile("[0-9a-f]{16,}")
_CORPORA = get_args(get_args(CorpusConfig)[0])
"""The configurations of all corpora."""
_STREAM = re.compile(r"^stream-(\d+)$")
"""Name under which training records the shards of a stream."""


@dataclass(frozen=True)
class Input:
    """What a configuration reads: an artefact or a corpus.

    Attributes:
        key: dotted key of the configuration; of a corpus the key of its configuration.
        uri: where it lies; of a corpus that is drawn, its name.
        kind: of the artefact, or the corpus' name; empty where nothing finished is found.
        fingerprint: of the artefact or corpus; empty where nothing finished is found.
        found: what is found there instead, in a phrase.
        parts: fingerprints of the parts of an artefact that a reader may depend on alone.
    """

    key: str
    uri: str
    kind: str = ""
    fingerprint: str = ""
    parts: frozenset[str] = frozenset()
    found: str = ""

    @property
    def state(self) -> str:
        """One phrase for the plan."""
        return f"{self.kind} {self.fingerprint}" if self.fingerprint else self.found

    def identities(self) -> set[str]:
        """All fingerprints this input is known by."""
        return {self.fingerprint, *self.parts} - {""}


def find_inputs(config: Config) -> list[Input]:
    """Every input that a configuration names, with what is found there; what is wrong with one, the job itself says."""
    corpora = dict(_corpora(config))
    found = [_corpus(key, corpus) for key, corpus in corpora.items()]
    for key, uri in input_uris(config):
        if key.rpartition(".")[0] in corpora:
            continue
        manifest = None
        with contextlib.suppress(ChatSearchError):
            manifest = read_manifest(uri)
        if manifest is None:
            found.append(Input(key, uri, found=_unfinished(uri)))
            continue
        parts = frozenset(v for k, v in manifest.facts.items() if "fingerprint" in k and isinstance(v, str))
        found.append(Input(key, uri, manifest.kind, manifest.fingerprint, parts))
    return found


def _corpus(key: str, config: CorpusConfig) -> Input:
    uri = config.type if isinstance(config, ScenesConfig) else config.path
    try:
        corpus = open_corpus(config)
        return Input(key, uri, corpus.name, corpus.fingerprint())
    except ChatSearchError as error:
        return Input(key, uri, found=str(error).split(". ")[0])


def _unfinished(uri: str) -> str:
    try:
        return (
            "a gallery that changes"
            if holds_gallery(uri)
            else "no finished artefact"
            if Folder(uri).exists()
            else "nothing there"
        )
    except ChatSearchError as error:
        return str(error).split(". ")[0]


@dataclass(frozen=True)
class Finished:
    """A finished output: its fingerprint and what is in it."""

    fingerprint: str
    counts: Mapping[str, Any]


def finished_artefact(kind: str, config: Config, inputs: Sequence[Input]) -> Finished | None:
    """A finished artefact that this configuration would make again from these inputs, else None.

    It is one when its fingerprint is that of this configuration over the inputs it recorded, when each
    recorded input is still what it was, and when all its files are there in their size.
    """
    output = str(getattr(config, "output", "") or "")
    if not output or getattr(config, "overwrite", False):
        return None
    manifest = read_manifest(output)
    if manifest is None or manifest.kind != kind:
        return None
    if manifest.fingerprint != fingerprint(kind, config, manifest.inputs):
        return None
    known = {entry.key: entry.identities() for entry in inputs}
    for name, recorded in manifest.inputs.items():
        key = _STREAM.sub(r"streams.\1.shards", name)
        # A word in place of a fingerprint says that this input was not used; it is none now either.
        unused = key not in known and not _FINGERPRINT.fullmatch(recorded)
        if not unused and recorded not in known.get(key, set()):
            return None
    open_artefact(output, kind)
    return Finished(manifest.fingerprint, manifest.counts)


def _corpora(config: Config, prefix: str = "") -> Iterator[tuple[str, CorpusConfig]]:
    for name in type(config).model_fields:
        value = getattr(config, name)
        if isinstance(value, _CORPORA):
            yield prefix + name, value
        elif isinstance(value, Config):
            yield from _corpora(value, f"{prefix}{name}.")
