"""Training a baseline: the same documents, features, starting weights and sample count as the model.

What differs between baselines is behind :class:`chatsearch.evaluate.learner.Learner`; plan, optimiser, start of the heads
and artefact are the same for all.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Iterator

import torch

from chatsearch.errors import ConfigError, NonFiniteLossError
from chatsearch.evaluate.config import BaselineConfig, DualEncoderTrainingConfig, FromageTrainingConfig
from chatsearch.evaluate.dual_encoder_training import DualEncoderLearner
from chatsearch.evaluate.fromage_training import FromageLearner
from chatsearch.evaluate.learner import Learner
from chatsearch.evaluate.phases import Phase
from chatsearch.index.features import FeatureStore
from chatsearch.kinds import MODEL_WEIGHTS
from chatsearch.manifest import Artefact, begin_output, open_artefact
from chatsearch.model.head_fit import HeadMoments, fit_heads
from chatsearch.model.weights import StartingWeights, load_weights
from chatsearch.progress import progress
from chatsearch.schedule import learning_rate
from chatsearch.tracking.tracker import Tracker


def train_baseline(config: BaselineConfig, tracker: Tracker) -> Artefact:
    """Train the baseline a configuration describes, or return it when it is finished already.

    A run is short and starts over when it was interrupted.

    Raises:
        ConfigError: an input is not set, or a stream holds nothing that fits.
        InputError: a training picture is not in the feature store (MissingInputError), or a document is of another split.
        NonFiniteLossError: the loss is NaN or infinite.
    """
    for name in ("weights", "features", "phases", "output"):
        if not getattr(config, name):
            raise ConfigError(f"{name} is not set; a baseline needs it. Set it with --set {name}=...")
    torch.set_num_threads(config.threads)
    weights = load_weights(config.weights)
    store = FeatureStore.open(config.features)
    phases = [Phase.open(phase) for phase in config.phases]
    inputs = {"weights": open_artefact(config.weights, MODEL_WEIGHTS).fingerprint, "features": store.fingerprint}
    for number, phase in enumerate(phases):
        for stream, shards in enumerate(phase.shards):
            inputs[f"phases.{number}.streams.{stream}.shards"] = shards.fingerprint
    output = begin_output(config.output, config.KIND, config, inputs, overwrite=config.overwrite)
    if output.finished is not None:
        return output.finished
    begin = time.monotonic()
    learner = _start(config, weights, store)
    learner.network.train()
    if config.heads.num_steps:
        _start_heads(learner, phases[0], config)
    with progress(f"train {config.KIND}", sum(phase.config.steps for phase in phases), "steps") as advance:
        for number, phase in enumerate(phases):
            for step, losses in enumerate(_train_phase(learner, phase, config)):
                advance(1)
                if step % config.log_every == 0:
                    tracker.log_metrics({f"phase_{number}/{n}": value for n, value in losses.items()}, step=step)
    learner.write(output.folder)
    parameters = list(learner.network.parameters())
    return output.commit(
        counts={
            "samples": sum(stream.per_step * phase.config.steps for phase in phases for stream in phase.config.streams),
            "parameters": sum(p.numel() for p in parameters),
            "trained_parameters": sum(p.numel() for p in parameters if p.requires_grad),
        },
        facts={
            "encoder_fingerprint": store.encoder_fingerprint,
            "preprocessing_id": store.preprocessing_id,
            "seconds": round(time.monotonic() - begin, 1),
        },
    )


def _start(config: BaselineConfig, weights: StartingWeights, store: FeatureStore) -> Learner:
    if isinstance(config, FromageTrainingConfig):
        return FromageLearner.start(config, weights, store)
    assert isinstance(config, DualEncoderTrainingConfig), type(config)
    return DualEncoderLearner.start(config, weights, store)


@torch.no_grad()
def _start_heads(learner: Learner, phase: Phase, config: BaselineConfig) -> None:
    """Both projections in closed form from the untrained network's states, as the model's heads start beside it."""
    network = learner.network
    moments = HeadMoments.zero(network.text_head.in_features, network.image_head.in_features, torch.device("cpu"))
    for draws in itertools.islice(phase.steps(config.seed), config.heads.num_steps):
        asked = learner.ask(draws)
        moments.add(asked.states_BH, asked.cls_BD)
    heads = fit_heads(moments, config.retrieval_dim, penalty=config.heads.penalty, whitening=config.heads.whitening)
    network.text_head.weight.copy_(heads.query_dH)
    network.image_head.weight.copy_(heads.gallery_dD)


def _train_phase(learner: Learner, phase: Phase, config: BaselineConfig) -> Iterator[dict[str, float]]:
    """Train through one phase; yields the losses of each step."""
    network = learner.network
    heads = [*network.text_head.parameters(), *network.image_head.parameters(), network.log_scale]
    is_head = {id(parameter) for parameter in heads}
    rest = [p for p in network.parameters() if p.requires_grad and id(p) not in is_head]
    optimiser = torch.optim.AdamW(
        [{"params": rest, "factor": 1.0}, {"params": heads, "factor": config.head_multiplier}],
        lr=phase.config.learning_rate,
        weight_decay=0.0,
    )
    for step, draws in enumerate(phase.steps(config.seed)):
        for group in optimiser.param_groups:
            group["lr"] = group["factor"] * learning_rate(
                step,
                peak=phase.config.learning_rate,
                warmup_steps=phase.config.warmup_steps,
                total_steps=phase.config.steps,
            )
        losses = learner.losses(draws)
        value = losses["loss"].item()
        if not math.isfinite(value):
            raise NonFiniteLossError(
                f"The {config.KIND}'s loss is {value} at step {step}. Lower the phase's learning_rate={phase.config.learning_rate}."
            )
        optimiser.zero_grad()
        losses["loss"].backward()
        torch.nn.utils.clip_grad_norm_([*rest, *heads], config.max_grad_norm)
        optimiser.step()
        yield {name: loss.item() for name, loss in losses.items()}
