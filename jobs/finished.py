"""Whether a job's output is finished already, told from manifests alone: no Ray, no torch, no data is read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from chatsearch.config import Config, flatten
from chatsearch.corpora.config import CaptionedFolderConfig, ScenesConfig, WebDatasetConfig
from chatsearch.corpora.open import open_corpus
from chatsearch.errors import ChatSearchError
from chatsearch.manifest import Manifest, fingerprint, open_artefact, read_manifest
from chatsearch.storage import is_remote


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
            return "no manifest there"
        return f"{self.manifest.kind} {self.manifest.fingerprint}"

    def identities(self) -> set[str]:
        """All fingerprints this artefact is known by: its own, and those of the parts a reader may depend on alone."""
        if self.manifest is None:
            return set()
        parts = {v for k, v in self.manifest.facts.items() if "fingerprint" in k and isinstance(v, str)}
        return {self.manifest.fingerprint, *parts}


def find_inputs(config: Config) -> list[Input]:
    """Every URI among the configuration's values, other than its output, with the manifest found there."""
    found = []
    for key, uri in _uris(config):
        try:
            manifest = read_manifest(uri)
        except ChatSearchError:
            manifest = None  # the job itself opens it and says what is wrong
        found.append(Input(key, uri, manifest))
    return found


def _uris(config: Config) -> Iterator[tuple[str, str]]:
    for key, value in flatten(config).items():
        if key == "output":
            continue
        several = (
            {f"{key}.{n}": item for n, item in enumerate(value)} if isinstance(value, (list, tuple)) else {key: value}
        )
        for name, text in several.items():
            # Not an artefact: what is fetched from elsewhere (a hub id, a wheel) and databases.
            if isinstance(text, str) and (text.startswith("s3://") or ("/" in text and not is_remote(text))):
                yield name, text


def finished_output(kind: str, config: Config, inputs: Sequence[Input]) -> Manifest | None:
    """The manifest of a finished output that this configuration would make again from these inputs, else None.

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
        if recorded not in by_key.get(name, known):
            return None
    return open_artefact(output, kind).manifest


def _corpora(config: Config) -> Iterator[ScenesConfig | CaptionedFolderConfig | WebDatasetConfig]:
    for name in type(config).model_fields:
        value = getattr(config, name)
        for item in value if isinstance(value, (list, tuple)) else [value]:
            if isinstance(item, (ScenesConfig, CaptionedFolderConfig, WebDatasetConfig)):
                yield item
            elif isinstance(item, Config):
                yield from _corpora(item)
