"""Training the dual-encoder baseline: the same documents, features, starting weights and sample count as the model."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from chatsearch.data.coin import Coin
from chatsearch.data.plan import StepPlan
from chatsearch.data.shards import DocumentShards
from chatsearch.data.tokenizer import ChatTokenizer
from chatsearch.errors import ConfigError, InputError, NonFiniteLossError
from chatsearch.evaluate.config import BaselineConfig, PhaseConfig
from chatsearch.evaluate.dual_encoder import (
    DualEncoder,
    DualEncoderConfig,
    symmetric_loss,
    text_ids,
    text_states,
    write_dual_encoder,
)
from chatsearch.index.features import FeatureStore
from chatsearch.kinds import DUAL_ENCODER, MODEL_WEIGHTS
from chatsearch.manifest import Artefact, begin_output, open_artefact
from chatsearch.model.config import LanguageConfig
from chatsearch.model.head_fit import HeadMoments, fit_heads
from chatsearch.model.weights import load_weights
from chatsearch.progress import progress
from chatsearch.schedule import learning_rate
from chatsearch.tracking.tracker import Tracker
from chatsearch.types import Document, Kind

_GROUP = 16
"""Texts of similar length that run together."""
PAIRED = (Kind.CAPTION, Kind.INTERLEAVED, Kind.EDIT, Kind.T, Kind.I, Kind.M)
"""Kinds that give a text and the picture it is about."""


def pair_of(document: Document, coin: Coin) -> tuple[str, str]:
    """A text and the content hash of its picture.

    Captions: a drawn caption. Interleaved: a drawn picture and the text nearest before it, else nearest after it. Dialogues:
    the text of all rounds before the answer.
    """
    if document.kind == Kind.CAPTION:
        captions = [s.text for s in document.segments if s.text is not None]
        return captions[coin.draw("caption", len(captions))], document.images()[0]
    if document.kind == Kind.INTERLEAVED:
        return _pair_on_page(document, coin)
    context, target = document.query()
    return " ".join(s.text for s in context if s.text is not None), target


def _pair_on_page(document: Document, coin: Coin) -> tuple[str, str]:
    places = [place for place, segment in enumerate(document.segments) if segment.image is not None]
    if not places:
        raise InputError(f"Interleaved document {document.document_id!r} holds no image. Remove it.")
    place = places[coin.draw("picture", len(places))]
    texts = {at: segment.text for at, segment in enumerate(document.segments) if segment.text is not None}
    # Text before a picture is nearer than text behind it, however far away.
    nearest = min(texts, key=lambda at: (at > place, abs(at - place)), default=None)
    image = document.segments[place].image
    assert image is not None
    return texts[nearest] if nearest is not None else "", image


@dataclass(frozen=True)
class _Phase:
    """One phase with its shards opened."""

    config: PhaseConfig
    shards: Sequence[DocumentShards]
    rows: Sequence[Sequence[int]]
    """Indices of each stream's paired documents."""

    @classmethod
    def open(cls, config: PhaseConfig) -> _Phase:
        shards = [DocumentShards.open(stream.shards) for stream in config.streams]
        rows = []
        for stream, opened in zip(config.streams, shards, strict=True):
            opened.require_split("train")
            kinds = [kind for kind in (stream.kinds or PAIRED) if kind in PAIRED]
            found = opened.select(kinds).tolist() if kinds else []
            if not found:
                raise ConfigError(
                    f"{stream.shards} holds no document with a text and its picture for the baseline. Leave the stream out."
                )
            rows.append(found)
        return cls(config, shards, rows)

    def batches(self, seed: int) -> Iterator[list[tuple[str, str]]]:
        """Texts and content hashes of each step."""
        sizes = tuple((len(rows), stream.per_step) for rows, stream in zip(self.rows, self.config.streams, strict=True))
        plan = StepPlan(seed, sizes)
        for step in range(self.config.steps):
            pairs = []
            for draw in plan.step(step):
                document = self.shards[draw.stream].document(self.rows[draw.stream][draw.document])
                pairs.append(pair_of(document, Coin(seed, document.document_id, draw.epoch)))
            yield pairs


def train_baseline(config: BaselineConfig, tracker: Tracker) -> Artefact:
    """Train the dual encoder a configuration describes, or return it when it is finished already.

    A run is short and starts over when it was interrupted.

    Raises:
        ConfigError: an input is not set, or a stream holds nothing that fits.
        InputError: a training picture is not in the feature store (MissingInputError), or a document is of another split.
        NonFiniteLossError: the loss is NaN or infinite.
    """
    for name in ("weights", "features", "phases", "output"):
        if not getattr(config, name):
            raise ConfigError(f"{name} is not set; the dual encoder needs it. Set it with --set {name}=...")
    torch.set_num_threads(config.threads)
    weights = load_weights(config.weights)
    store = FeatureStore.open(config.features)
    phases = [_Phase.open(phase) for phase in config.phases]
    inputs = {"weights": open_artefact(config.weights, MODEL_WEIGHTS).fingerprint, "features": store.fingerprint}
    for number, phase in enumerate(phases):
        for stream, shards in enumerate(phase.shards):
            inputs[f"phases.{number}.streams.{stream}.shards"] = shards.fingerprint
    output = begin_output(config.output, DUAL_ENCODER, config, inputs, overwrite=config.overwrite)
    if output.finished is not None:
        return output.finished
    shape = DualEncoderConfig(
        language=_tower(weights.language_config, config),
        feature_dim=store.dimension,
        retrieval_dim=config.retrieval_dim,
        pooling=config.pooling,
        max_length=config.max_length,
        tau0=config.tau0,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        network = DualEncoder(shape)
    network.text.load_word_weights(weights.language)
    network.text.decoder.embed_tokens.requires_grad_(not config.freeze_words)
    begin = time.monotonic()
    tokenizer = weights.tokenizer
    network.train()
    if config.heads.num_steps:
        _start_heads(network, phases[0], store, tokenizer, config)
    with progress("train dual encoder", sum(phase.config.steps for phase in phases), "steps") as advance:
        for number, phase in enumerate(phases):
            for step, loss in enumerate(_train_phase(network, phase, store, tokenizer, config)):
                advance(1)
                if step % config.log_every == 0:
                    tracker.log_metrics({f"phase_{number}/loss": loss}, step=step)
    num_samples = sum(stream.per_step * phase.config.steps for phase in phases for stream in phase.config.streams)
    write_dual_encoder(output.folder, network, tokenizer)
    return output.commit(
        counts={"samples": num_samples, "parameters": sum(p.numel() for p in network.parameters())},
        facts={
            "encoder_fingerprint": store.encoder_fingerprint,
            "preprocessing_id": store.preprocessing_id,
            "seconds": round(time.monotonic() - begin, 1),
        },
    )


def _tower(language: LanguageConfig, config: BaselineConfig) -> LanguageConfig:
    """The shape of the text tower.

    Raises:
        ConfigError: the weights have fewer layers than wanted.
    """
    if config.num_layers > language.num_layers:
        raise ConfigError(
            f"num_layers={config.num_layers} is more than the {language.num_layers} layers of the weights."
        )
    return language.replace(num_layers=config.num_layers or language.num_layers)


@torch.no_grad()
def _start_heads(
    network: DualEncoder, phase: _Phase, store: FeatureStore, tokenizer: ChatTokenizer, config: BaselineConfig
) -> None:
    """Both projections in closed form from the untrained tower, as the model's heads start beside it."""
    moments = HeadMoments.zero(network.config.language.hidden_size, store.dimension, torch.device("cpu"))
    for pairs in itertools.islice(phase.batches(config.seed), config.heads.num_steps):
        moments.add(*_states_and_features(network, pairs, store, tokenizer, config))
    heads = fit_heads(moments, config.retrieval_dim, penalty=config.heads.penalty, whitening=config.heads.whitening)
    network.text_head.weight.copy_(heads.query_dH)
    network.image_head.weight.copy_(heads.gallery_dD)


def _states_and_features(
    network: DualEncoder,
    pairs: Sequence[tuple[str, str]],
    store: FeatureStore,
    tokenizer: ChatTokenizer,
    config: BaselineConfig,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The text tower's states (B, H) and raw f_CLS (B, D) of a batch."""
    rows = [text_ids(text, tokenizer, config.max_length) for text, _ in pairs]
    with torch.autocast("cpu", torch.bfloat16, enabled=config.mixed):
        states_BH = text_states(network, rows, tokenizer.pad_id, group_size=_GROUP)
    return states_BH, torch.from_numpy(np.stack([store.get(image) for _, image in pairs]))


def _train_phase(
    network: DualEncoder, phase: _Phase, store: FeatureStore, tokenizer: ChatTokenizer, config: BaselineConfig
) -> Iterator[float]:
    """Train through one phase; yields the loss of each step."""
    heads = [*network.text_head.parameters(), *network.image_head.parameters(), network.log_scale]
    tower = [parameter for parameter in network.text.decoder.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(
        [{"params": tower, "factor": 1.0}, {"params": heads, "factor": config.head_multiplier}],
        lr=phase.config.learning_rate,
        weight_decay=0.0,
    )
    for step, pairs in enumerate(phase.batches(config.seed)):
        for group in optimiser.param_groups:
            group["lr"] = group["factor"] * learning_rate(
                step,
                peak=phase.config.learning_rate,
                warmup_steps=phase.config.warmup_steps,
                total_steps=phase.config.steps,
            )
        states_BH, cls_BD = _states_and_features(network, pairs, store, tokenizer, config)
        vectors = network.text_embedding(states_BH), network.image_embedding(cls_BD)
        loss = symmetric_loss(*vectors, network.scale, [image for _, image in pairs])
        value = loss.item()
        if not math.isfinite(value):
            raise NonFiniteLossError(
                f"The dual encoder's loss is {value} at step {step}. Lower the phase's learning_rate={phase.config.learning_rate}."
            )
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_([*tower, *heads], config.max_grad_norm)
        optimiser.step()
        yield value
