"""Measure one model with one protocol, and write the result as JSON.

schema_version, protocol {name, ...}, counts, numbers of the protocol (see chatsearch, text_to_image, decision, interaction),
model {uri, fingerprint, mq_fingerprint, encoder_fingerprint, preprocessing_id}, inputs {name: {uri, fingerprint}},
config, fingerprint (of inputs and configuration), seconds, date, chatsearch
"""

from __future__ import annotations

import datetime
import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from chatsearch import __version__
from chatsearch.converse.pictures import PictureEncoder
from chatsearch.data.shards import DocumentShards
from chatsearch.errors import FingerprintMismatchError
from chatsearch.evaluate import chatsearch, decision, interaction, text_to_image
from chatsearch.evaluate.config import EvaluateConfig
from chatsearch.evaluate.dual_encoder import DUAL_ENCODER_FORMAT
from chatsearch.evaluate.fromage import FROMAGE_FORMAT
from chatsearch.evaluate.inputs import (
    RESULT_SCHEMA,
    check_output,
    choose_split,
    inputs_of,
    result_fingerprint,
    ridge_splits,
)
from chatsearch.evaluate.methods import (
    ChatSearcherMethod,
    Method,
    RandomMethod,
    Variant,
    dual_encoder_methods,
    fromage_method,
)
from chatsearch.evaluate.metrics import random_recalls
from chatsearch.evaluate.pictures import PictureFeatures
from chatsearch.evaluate.queries import queries_by_sub_task
from chatsearch.index.features import FeatureStore
from chatsearch.index.gallery import open_index
from chatsearch.model.bundle import ModelBundle, load_bundle
from chatsearch.storage import Folder, resolve
from chatsearch.tracking.tracker import Tracker


def evaluate(config: EvaluateConfig, tracker: Tracker) -> dict[str, Any]:
    """Measure, write the JSON file, record the numbers; returns the result.

    Raises:
        ConfigError: something the protocol needs is not set.
        InputError: the data holds nothing to measure on, or too much of it is bad.
        FingerprintMismatchError: model, index, features and baseline do not belong together.
        ConflictingOutputError: another result lies at the output and ``overwrite`` is false.
    """
    inputs = inputs_of(config)
    fingerprint = result_fingerprint(config, inputs)
    check_output(config, fingerprint)
    begin = time.monotonic()
    torch.set_num_threads(config.threads)
    bundle = load_bundle(config.model)
    measured = {
        "chatsearch": _chatsearch,
        "text_to_image": _text_to_image,
        "decision": _decision,
        "interaction": _interaction,
    }[config.protocol](config, bundle)
    result = {
        "schema_version": RESULT_SCHEMA,
        **measured,
        "model": {
            "uri": bundle.uri,
            "fingerprint": bundle.fingerprint,
            "mq_fingerprint": bundle.mq_fingerprint,
            "encoder_fingerprint": bundle.encoder_fingerprint,
            "preprocessing_id": bundle.preprocessing_id,
        },
        "inputs": {name: entry for name, entry in inputs.items() if name != "model"},
        "config": config.model_dump(mode="json"),
        "fingerprint": fingerprint,
        "seconds": round(time.monotonic() - begin, 1),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "chatsearch": __version__,
    }
    write_result(config.output, result)
    tracker.log_metrics(flat_metrics(measured))
    tracker.log_artefact("evaluation.json", result)
    return result


def write_result(uri: str, result: Mapping[str, Any]) -> None:
    """Write a result to a JSON file, whole or not at all."""
    folder, name = os.path.split(resolve(uri))
    Folder(folder).write_bytes(name, (json.dumps(result, indent=1) + "\n").encode())


def flat_metrics(measured: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """Every number of a result under a path: ``methods/ChatSearcher/t/all/R@1``."""
    flat: dict[str, float] = {}
    for key, value in measured.items():
        if isinstance(value, Mapping):
            flat |= flat_metrics(value, f"{prefix}{key}/")
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            flat[f"{prefix}{key}"] = float(value)
    return flat


@dataclass(frozen=True)
class _Gallery:
    """What is asked, and the pictures of the model's index that it is asked of."""

    shards: DocumentShards
    hashes: list[str]
    features: PictureFeatures


def _open_gallery(config: EvaluateConfig, bundle: ModelBundle) -> _Gallery:
    index = open_index(config.index, bundle.mq_fingerprint, model=bundle.uri)
    store = FeatureStore.open(index.manifest.facts["features"])
    if store.fingerprint != index.manifest.inputs["features"]:
        raise FingerprintMismatchError(
            f"Index {index.uri} was built from features {index.manifest.inputs['features']}, {store.uri} now holds {store.fingerprint}. "
            f"Build the index again: python -m jobs.index --set features={store.uri} --set model={bundle.uri} --set output=NEW_URI"
        )
    shards = DocumentShards.open(config.data)
    if config.split:
        shards.require_split(config.split)
    features = PictureFeatures(
        bundle.vision,
        shards.images.get,
        [store],
        encoder_fingerprint=bundle.encoder_fingerprint,
        batch_size=config.batch_size,
    )
    return _Gallery(shards, [item.content_hash for item in store.items()], features)


def _chatsearch(config: EvaluateConfig, bundle: ModelBundle) -> dict[str, Any]:
    opened = _open_gallery(config, bundle)
    shards, features = opened.shards, opened.features
    evaluation = chatsearch.ChatSearchEvaluation(queries_by_sub_task(shards.documents()), opened.hashes, features)
    pictures = PictureEncoder(bundle.vision, shards.images)
    methods: list[Method] = [ChatSearcherMethod(bundle, pictures, config.batch_size)]
    results = {methods[0].name: evaluation.measure(methods[0])}
    if "random" in config.baselines:
        results[chatsearch.RANDOM] = evaluation.expected_random()
        methods.append(RandomMethod(config.seed))
    methods += _trained_methods(config, bundle, features, ("i", "t", "ti"))
    results |= {method.name: evaluation.measure(method) for method in methods[1:]}
    return {
        "protocol": {"name": "chatsearch", **chatsearch.PROTOCOL},
        "splits": shards.splits,
        "counts": evaluation.counts(),
        "methods": results,
    }


def _text_to_image(config: EvaluateConfig, bundle: ModelBundle) -> dict[str, Any]:
    split = choose_split(config.data, config.split)
    data = text_to_image.read_split(config.data, split, max_rejected_fraction=config.max_rejected_fraction)
    stores = [FeatureStore.open(uri) for uri in config.features]
    others = {name: text_to_image.read_split(config.data, name) for name in ridge_splits(config, split)}
    pictures = {**data.pictures, **{h: b for other in others.values() for h, b in other.pictures.items()}}
    features = PictureFeatures(
        bundle.vision,
        pictures.__getitem__,
        stores,
        encoder_fingerprint=bundle.encoder_fingerprint,
        batch_size=config.batch_size,
    )
    ours = ChatSearcherMethod(bundle, PictureEncoder(bundle.vision, data), config.batch_size)
    result = text_to_image.cells(text_to_image.measure(ours, data, features))
    baselines: dict[str, Any] = {}
    if "random" in config.baselines:
        baselines[chatsearch.RANDOM] = random_recalls(len(data.gallery))
    for method in _trained_methods(config, bundle, features, ("t",)):
        baselines[method.name] = text_to_image.cells(text_to_image.measure(method, data, features))
    if "train" in others:
        ridge = text_to_image.fit_ridge(others["train"], others.get("val"), features, config.ridge)
        baselines[ridge.name] = {
            **text_to_image.cells(text_to_image.measure(ridge, data, features)),
            "penalty": ridge.ridge.penalty,
            "num_words": ridge.ridge.num_words,
            "num_train_pictures": len(others["train"].gallery),
        }
    return {
        **result,
        **data.report(),
        "protocol": {"name": "text_to_image", **text_to_image.PROTOCOL},
        "baselines": baselines,
    }


def _trained_methods(
    config: EvaluateConfig, bundle: ModelBundle, features: PictureFeatures, variants: Sequence[Variant]
) -> list[Method]:
    """The trained baselines that are named, the dual encoder in these variants."""
    methods: list[Method] = []
    if "dual_encoder" in config.baselines and config.baseline:
        methods += dual_encoder_methods(DUAL_ENCODER_FORMAT.open(config.baseline), features, bundle, variants)
    if "fromage" in config.baselines and config.fromage:
        fromage = FROMAGE_FORMAT.open(config.fromage)
        methods.append(fromage_method(fromage, features, bundle, batch_size=config.batch_size))
    return methods


def _decision(config: EvaluateConfig, bundle: ModelBundle) -> dict[str, Any]:
    shards = DocumentShards.open(config.data)
    if config.split:
        shards.require_split(config.split)
    prompts = decision.prompts_of(shards.documents(), config.max_prompts)
    decisions = decision.decide(
        bundle, prompts, PictureEncoder(bundle.vision, shards.images), max_words=config.max_words
    )
    return {
        "protocol": {"name": "decision", **decision.PROTOCOL},
        "splits": shards.splits,
        "num_retrieval": sum(prompt.wants_image for prompt in prompts),
        "num_question": sum(not prompt.wants_image for prompt in prompts),
        "decision": decision.score(prompts, decisions),
    }


def _interaction(config: EvaluateConfig, bundle: ModelBundle) -> dict[str, Any]:
    opened = _open_gallery(config, bundle)
    dialogues = interaction.dialogues_of(opened.shards.documents())
    evaluation = interaction.InteractionEvaluation(dialogues, opened.hashes, opened.features)
    ours = ChatSearcherMethod(bundle, PictureEncoder(bundle.vision, opened.shards.images), config.batch_size)
    return {
        "protocol": {"name": "interaction", **interaction.PROTOCOL},
        "splits": opened.shards.splits,
        "num_dialogues": len(dialogues),
        "num_gallery": len(set(opened.hashes)),
        "interaction": evaluation.measure(ours),
    }
