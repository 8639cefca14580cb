"""What a measurement reads, and which measurement it is: told from manifests alone. Light: no torch."""

from __future__ import annotations

import json
import os
from collections import Counter
from typing import Any

from chatsearch.config import digest
from chatsearch.corpora.captioned import CAPTIONS_FILE, CaptionedFolder
from chatsearch.corpora.config import CaptionedFolderConfig
from chatsearch.errors import ConfigError, ConflictingOutputError, InputError
from chatsearch.evaluate.config import EvaluateConfig
from chatsearch.kinds import DOCUMENT_SHARDS, DUAL_ENCODER, FEATURE_STORE, FROMAGE, GALLERY_INDEX, MODEL_BUNDLE
from chatsearch.manifest import open_artefact
from chatsearch.storage import Folder, resolve
from chatsearch.types import Kind

RESULT_SCHEMA = 1
RESULT = "evaluation"
"""What trackers call a result."""
Inputs = dict[str, dict[str, str]]
"""By name: ``uri`` and ``fingerprint``."""

_NEEDED = {
    "chatsearch": ("model", "data", "index"),
    "text_to_image": ("model", "data"),
    "decision": ("model", "data"),
    "interaction": ("model", "data", "index"),
}
_COMPARED = ("chatsearch", "text_to_image")
"""Protocols with baselines."""


def inputs_of(config: EvaluateConfig) -> Inputs:
    """All that decides the numbers besides the configuration; the model under ``model``.

    Raises:
        ConfigError: something the protocol needs is not set.
        ArtefactError: an artefact is not finished.
        InputError: ``data`` is no captioned folder, or has no record of the split.
    """
    for name in (*_NEEDED[config.protocol], "output"):
        if not getattr(config, name):
            raise ConfigError(
                f"{name} is not set; protocol={config.protocol} needs it. Say where with --set {name}=URI."
            )
    inputs = {"model": _artefact(config.model, MODEL_BUNDLE)}
    if config.protocol == "text_to_image":
        split = choose_split(config.data, config.split)
        inputs["data"] = _captions(config.data, split)
        inputs |= {name: _captions(config.data, name) for name in ridge_splits(config, split)}
        inputs |= {f"features.{n}": _artefact(uri, FEATURE_STORE) for n, uri in enumerate(config.features)}
    else:
        inputs["data"] = _artefact(config.data, DOCUMENT_SHARDS)
    if "index" in _NEEDED[config.protocol]:
        index = open_artefact(config.index, GALLERY_INDEX)
        inputs["index"] = {"uri": index.uri, "fingerprint": index.fingerprint}
        inputs["features"] = _artefact(index.manifest.facts["features"], FEATURE_STORE)
    if config.protocol in _COMPARED and config.baseline and "dual_encoder" in config.baselines:
        inputs["baseline"] = _artefact(config.baseline, DUAL_ENCODER)
    if config.protocol in _COMPARED and config.fromage and "fromage" in config.baselines:
        inputs["fromage"] = _artefact(config.fromage, FROMAGE)
    return inputs


def result_fingerprint(config: EvaluateConfig, inputs: Inputs) -> str:
    """Which measurement it is: the same one gives the same numbers."""
    prints = {name: entry["fingerprint"] for name, entry in inputs.items()}
    return digest(RESULT, RESULT_SCHEMA, config.content(), prints)


def read_result(uri: str) -> dict[str, Any] | None:
    """The result at a URI, or None where no result of ours lies."""
    folder, name = os.path.split(resolve(uri))
    if not Folder(folder).exists(name):
        return None
    try:
        result = json.loads(Folder(folder).read_bytes(name))
    except ValueError:
        return None
    return result if isinstance(result, dict) and {"schema_version", "protocol", "model"} <= result.keys() else None


def check_output(config: EvaluateConfig, fingerprint: str) -> None:
    """Check that no other result would be lost.

    Raises:
        ConflictingOutputError: another result lies at the output and ``overwrite`` is false, or a file that is none.
    """
    folder, name = os.path.split(resolve(config.output))
    if not Folder(folder).exists(name):
        return
    held = read_result(config.output)
    if held is None:
        raise ConflictingOutputError(
            f"{config.output} holds something else than a result of this job, so it is left as it is. Choose another output."
        )
    if held.get("fingerprint") != fingerprint and not config.overwrite:
        raise ConflictingOutputError(
            f"{config.output} holds the result of another measurement ({held.get('fingerprint', 'of an earlier version')}, taken "
            f"{held.get('date', 'at an unknown time')}); this one is {fingerprint}. Choose another output, or replace it with "
            "--set overwrite=true."
        )


def splits_of(folder: str) -> Counter[str]:
    """Records of each split; those without one count as ``train``. Unreadable lines are left to the reader."""
    found: Counter[str] = Counter()
    for line in Folder(folder).read_bytes(CAPTIONS_FILE).splitlines():
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(record, dict) and isinstance(record.get("split", "train"), str):
            found[record.get("split", "train")] += 1
    return found


def choose_split(folder: str, wanted: str) -> str | None:
    """The split to measure on: the one wanted, else ``test`` if there is one, else None for all records.

    Raises:
        MissingInputError: there is no captioned folder.
        InputError: no record is of the wanted split.
    """
    captions_of(folder, None)  # refuses what is no captioned folder, and says what is wrong
    splits = splits_of(folder)
    if wanted and wanted not in splits:
        held = ", ".join(f"{name} ({count})" for name, count in sorted(splits.items())) or "nothing"
        raise InputError(f"{folder} has no record of split {wanted!r}; it holds {held}. Set split to one of these.")
    if wanted:
        return wanted
    return "test" if "test" in splits else None


def ridge_splits(config: EvaluateConfig, split: str | None) -> tuple[str, ...]:
    """The splits that the ridge baseline is fitted on; none where it would have seen the pictures asked for."""
    if "ridge" not in config.baselines or split in (None, "train", "val"):
        return ()
    held = splits_of(config.data)
    return tuple(name for name in ("train", "val") if name in held)


def captions_of(folder: str, split: str | None) -> CaptionedFolder:
    """The reader of one split of a captioned folder, or of all of it."""
    return CaptionedFolder(CaptionedFolderConfig(path=folder, split=split, emit=(Kind.CAPTION,)))


def _captions(folder: str, split: str | None) -> dict[str, str]:
    return {"uri": folder, "fingerprint": captions_of(folder, split).fingerprint()}


def _artefact(uri: str, kind: str) -> dict[str, str]:
    return {"uri": resolve(uri), "fingerprint": open_artefact(uri, kind).fingerprint}
