"""Whether a job's output is finished already, told from manifests alone: no Ray, no torch, no data is read."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from chatsearch.config import Config
from chatsearch.corpora.config import CaptionedFolderConfig, ScenesConfig, WebDatasetConfig
from chatsearch.corpora.open import open_corpus
from chatsearch.errors import ChatSearchError
from chatsearch.manifest import Manifest, fingerprint, open_artefact, read_manifest
from chatsearch.storage import is_remote

_FINGERPRINT = re.compile("[0-9a-f]{16,}")


@dataclass(frozen=True)
class Input:
    """A URI that a configuration names.

    Attributes:
        key: dotted key of the configuration.
        uri: where it points.
        manifest: what lies there, or None where no manifest is found.
    """

    key: str
    uri: str
    manifest: Manifest | None

    @property
    def state(self) -> str:
        """One phrase for the plan."""
        if self.manifest is None:
            return "no finished artefact"
        return f"{self.manifest.kind} {self.manifest.fingerprint}"

    def identities(self) -> set[str]:
        """All fingerprints this artefact is known by: its own, and those of the parts a reader may depend on alone."""
        if self.manifest is None:
            return set()
        parts = {v for k, v in self.manifest.facts.items() if "fingerprint" in k and isinstance(v, str)}
        return {self.manifest.fingerprint, *parts}


def find_inputs(config: Config) -> list[Input]:
    """Every input that a configuration names, with the manifest found there."""
    found = []
    for key, uri in input_uris(config):
        try:
            manifest = read_manifest(uri)
        except ChatSearchError:
            manifest = None  # the job itself opens it and says what is wrong
        found.append(Input(key, uri, manifest))
    return found


def input_uris(config: Config, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Dotted key and URI of every place that a configuration names, other than its output."""
    for name, info in type(config).model_fields.items():
        value, key = getattr(config, name), prefix + name
        extra = info.json_schema_extra
        # URIs of inputs are runtime fields: what counts is the fingerprint of what lies there.
        names_input = isinstance(extra, dict) and bool(extra.get("runtime"))
        several = isinstance(value, (list, tuple))
        for inner, item in [(f"{key}.{n}", item) for n, item in enumerate(value)] if several else [(key, value)]:
            if isinstance(item, Config):
                yield from input_uris(item, f"{inner}.")
            elif names_input and key != "output" and isinstance(item, str) and _is_place(item):
                yield inner, item


def _is_place(text: str) -> bool:
    return text.startswith("s3://") or ("/" in text and not is_remote(text))


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
    known = {identity for entry in inputs for identity in entry.identities()}
    known |= {open_corpus(corpus).fingerprint() for corpus in _corpora(config)}
    by_key: dict[str, set[str]] = {}
    for entry in inputs:
        by_key.setdefault(entry.key, set()).update(entry.identities())
    for name, recorded in manifest.inputs.items():
        # A word in place of a fingerprint says that this input was not used; it is none now either.
        unused = name not in by_key and not _FINGERPRINT.fullmatch(recorded)
        if not unused and recorded not in by_key.get(name, known):
            return None
    open_artefact(output, kind)
    return Finished(manifest.fingerprint, manifest.counts)


def _corpora(config: Config) -> Iterator[ScenesConfig | CaptionedFolderConfig | WebDatasetConfig]:
    for name in type(config).model_fields:
        value = getattr(config, name)
        for item in value if isinstance(value, (list, tuple)) else [value]:
            if isinstance(item, (ScenesConfig, CaptionedFolderConfig, WebDatasetConfig)):
                yield item
            elif isinstance(item, Config):
                yield from _corpora(item)
