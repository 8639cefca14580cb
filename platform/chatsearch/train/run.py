"""The ``train`` job on the driver: check everything, start the workers, follow them, finish the bundle."""

from __future__ import annotations

import logging
import math
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from chatsearch.errors import (
    ClusterError,
    ConfigError,
    FingerprintMismatchError,
    IncompleteArtefactError,
    StorageError,
    TrainingError,
)
from chatsearch.kinds import DOCUMENT_SHARDS, FEATURE_STORE, MODEL_BUNDLE, MODEL_WEIGHTS
from chatsearch.manifest import Artefact, Manifest, begin_output, fingerprint, open_artefact, read_manifest
from chatsearch.model.layout import BUNDLE_FILES
from chatsearch.patience import Patience
from chatsearch.storage import Folder, filesystem, is_remote, resolve
from chatsearch.tracking.tracker import NullTracker, Tracker
from chatsearch.train.config import TrainConfig
from chatsearch.train.disk import check_disk
from chatsearch.train.interrupt import interruptible

if TYPE_CHECKING:
    from chatsearch.train.worker import WorkerJob

logger = logging.getLogger(__name__)
CHECKPOINTS = "checkpoints"
_STARTING_KINDS = (MODEL_WEIGHTS, MODEL_BUNDLE)


def train(config: TrainConfig, tracker: Tracker | None = None) -> Artefact:
    """Train one stage and write the model bundle.

    A finished output is returned as it is; an interrupted one goes on from its newest checkpoint. With
    ``num_workers >= 1`` a Ray session must be running; with 0 the loop runs in this process.

    Raises:
        ConfigError: an input is not named.
        ArtefactError: an input is not finished or damaged, or inputs were not made for each other.
        DiskBudgetError: a local disk cannot hold the checkpoints and the bundle.
        ClusterError: the cluster cannot hold the workers.
        TrainingError: the run cannot go on; the checkpoints stay.
    """
    tracker = tracker or NullTracker()
    inputs = check_inputs(config)
    output = begin_output(config.output, MODEL_BUNDLE, config, inputs, overwrite=config.overwrite)
    if output.finished is not None:
        return output.finished
    run = fingerprint(MODEL_BUNDLE, config, inputs)
    check_disk(config, _checkpoints(config, run))
    _tell_leaks(config, tracker)
    made = _run_locally(config, run, tracker) if config.num_workers == 0 else _run_on_ray(config, run, tracker)
    for name, value in made["facts"]["last_step"].items():
        tracker.log_metrics({f"final_{name}": value})
    patience = Patience(config.output, config.store_patience_s)
    check_bundle(output.folder, patience.insist(output.folder.sizes))
    return patience.insist(lambda: output.commit(counts=made["counts"], files=BUNDLE_FILES, facts=made["facts"]))


def check_bundle(folder: Folder, present: Collection[str]) -> None:
    """Check that what rank 0 has written is among the files that are seen here, where the manifest is going to be.

    Raises:
        StorageError: a file is not; the checkpoints stay.
    """
    missing = [name for name in BUNDLE_FILES if name not in present]
    if missing:
        raise StorageError(
            f"Training is over, but {', '.join(missing)} cannot be seen in {folder.uri} from here: the workers on other nodes have "
            "written to their own disks. Take an output that all nodes share, such as s3://bucket/prefix."
        )


def check_inputs(config: TrainConfig) -> dict[str, str]:
    """Fingerprints of all inputs, read from their manifests alone.

    Raises:
        ConfigError: an input is not named.
        ArtefactError: an input is not finished, or the features are of another encoder than the weights.
    """
    for name in ("output", "weights", "streams"):
        if not getattr(config, name):
            raise ConfigError(f"{name} is not set. Give it with --set {name}=...")
    weights = _starting_manifest(config.weights)
    inputs = {"weights": weights.fingerprint, "features": "online"}
    if config.features:
        features = open_artefact(config.features, FEATURE_STORE).manifest
        ours, theirs = (m.facts.get("encoder_fingerprint") for m in (weights, features))
        if ours != theirs:
            raise FingerprintMismatchError(
                f"{config.features} holds features of encoder {theirs}, {config.weights} has encoder {ours}. Embed the pictures "
                f"again: python -m jobs.embed --set model={config.weights} --set tokens=true"
            )
        if not features.facts.get("token_shape"):
            raise ConfigError(f"{config.features} holds no tokens. Embed again with --set tokens=true.")
        inputs["features"] = features.fingerprint
    for number, stream in enumerate(config.streams):
        inputs[f"stream-{number}"] = open_artefact(stream.shards, DOCUMENT_SHARDS).fingerprint
    for number, uri in enumerate(config.held_out):
        held_out = open_artefact(uri, DOCUMENT_SHARDS).fingerprint
        if config.decontaminate:
            inputs[f"held-out-{number}"] = held_out
    if config.validation.shards:  # decides no weight: it only has to be there
        open_artefact(config.validation.shards, DOCUMENT_SHARDS)
    return inputs


def _tell_leaks(config: TrainConfig, tracker: Tracker) -> None:
    """Say, and record, what training shares with what is held out."""
    if not config.held_out:
        return
    from chatsearch.data.leaks import leaks
    from chatsearch.data.shards import DocumentShards
    from chatsearch.data.steps import taken

    opened = [(DocumentShards.open(stream.shards), stream) for stream in config.streams]
    found = [leak for shards, stream in opened for leak in leaks(shards, taken(shards, stream), config.held_out)]
    for leak in found:
        logger.warning(
            "%s. %s", leak, "They are left out." if config.decontaminate else "decontaminate=true leaves them out."
        )
    tracker.log_metrics(
        {
            "leaked_pictures": sum(leak.num_pictures for leak in found),
            "leaked_documents": sum(len(leak.documents_L) for leak in found),
        }
    )


def _starting_manifest(uri: str) -> Manifest:
    manifest = read_manifest(uri)
    if manifest is None:
        raise IncompleteArtefactError(
            f"No finished weights at {uri}. Make them with python -m jobs.weights, or name a model bundle."
        )
    if manifest.kind not in _STARTING_KINDS:
        raise FingerprintMismatchError(
            f"{uri} holds a {manifest.kind}; training starts from {' or '.join(_STARTING_KINDS)}."
        )
    return manifest


def _checkpoints(config: TrainConfig, run: str) -> Folder:
    return Folder(config.output).child(CHECKPOINTS, run)


def _located(config: TrainConfig) -> TrainConfig:
    """The same with absolute URIs: Ray Train starts its workers in folders of their own."""
    return config.replace(
        weights=resolve(config.weights),
        features=config.features and resolve(config.features),
        validation=config.validation.replace(
            shards=config.validation.shards and resolve(config.validation.shards),
            features=config.validation.features and resolve(config.validation.features),
        ),
        held_out=tuple(map(resolve, config.held_out)),
        streams=tuple(stream.replace(shards=resolve(stream.shards)) for stream in config.streams),
        output=resolve(config.output),
    )


def _run_locally(config: TrainConfig, run: str, tracker: Tracker) -> dict[str, Any]:
    """The worker loop in this process, alone, without Ray."""
    from chatsearch.train.progress import Display, LocalSink
    from chatsearch.train.worker import WorkerJob, train_worker

    sink = LocalSink(Display(config.stage, config.steps, tracker).show)
    return train_worker({"job": WorkerJob(_located(config), run, _checkpoints(config, run).uri, sink)})


def _run_on_ray(config: TrainConfig, run: str, tracker: Tracker) -> dict[str, Any]:
    import ray

    config = whole_workers(config)
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]] if ray.is_initialized() else None
    check_capacity(config, nodes)
    from chatsearch.train.progress import BoardSink, Display, following
    from chatsearch.train.worker import WorkerJob

    sink = BoardSink()
    job = WorkerJob(_located(config), run, _checkpoints(config, run).uri, sink)
    with following(sink, Display(config.stage, config.steps, tracker)):
        return _fit(job)


def _fit(job: WorkerJob) -> dict[str, Any]:
    from ray.train import TrainingFailedError

    config = job.config
    try:
        with interruptible():
            result = _fitted(job)
    except TrainingFailedError as error:
        known = job.sink.given_up()
        if known is not None:
            raise known from error
        raise TrainingError(
            f"Training stopped after {config.max_failures} restarts: {_last_line(error)}. The checkpoints in "
            f"{job.checkpoints} stay; run the same command again to go on from the newest."
        ) from error
    if "error" in result.return_value:
        raise result.return_value["error"]
    return result.return_value


def _fitted(job: WorkerJob) -> Any:
    """Ray Train's result. Its controller keeps notes beside the checkpoints, and ends with all workers when it cannot write them:
    it is started again once the store answers, and goes on from the newest checkpoint."""
    from ray.train import ControllerError

    config, root = job.config, Folder(job.checkpoints)
    for _ in range(config.max_failures):
        try:
            return _trainer(job).fit()
        except ControllerError as error:
            if not (is_remote(root.uri) and isinstance(error.controller_failure, OSError)):
                raise
            logger.warning("%s Training goes on from its newest checkpoint when the store answers.", _last_line(error))
        Patience(root.uri, config.store_patience_s).insist(root.sizes)
    return _trainer(job).fit()


def _trainer(job: WorkerJob) -> Any:
    from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    from chatsearch.train.worker import train_worker

    config = job.config
    fs, storage = filesystem(Folder(config.output).child(CHECKPOINTS).uri)
    resources = {"CPU": config.cpus_per_worker, **({"GPU": 1.0} if config.use_gpu else {})}
    workers: Any = (config.min_workers, config.num_workers) if config.min_workers else config.num_workers
    return TorchTrainer(
        train_worker,  # type: ignore[arg-type]  # annotated as returning nothing; its result is Result.return_value
        train_loop_config={"job": job},
        scaling_config=ScalingConfig(
            num_workers=workers,
            use_gpu=config.use_gpu,
            resources_per_worker=resources,
            elastic_resize_monitor_interval_s=config.resize_every_s,  # type: ignore[call-arg]  # of Ray Train v2
        ),
        # The name decides which run is continued: it is the fingerprint, so another configuration never is.
        run_config=RunConfig(
            name=job.run,
            storage_path=storage,
            storage_filesystem=fs,
            failure_config=FailureConfig(max_failures=config.max_failures),
            checkpoint_config=CheckpointConfig(num_to_keep=config.keep_checkpoints),
        ),
    )


def whole_workers(config: TrainConfig) -> TrainConfig:
    """The same where the number of workers is fixed; else with the CPUs of data tasks counted as their worker's, in whole CPUs.

    Ray starts as many workers of a range as there is room for: tasks that asked for room of their own would find none. It
    counts the workers that a node can hold by a division, which with fractions may come out one too low.
    """
    if config.min_workers is None:
        return config
    loader = config.loader
    cpus = float(math.ceil(config.cpus_per_worker + loader.num_tasks * loader.cpus_per_task))
    return config.replace(cpus_per_worker=cpus, loader=loader.replace(cpus_per_task=0.0))


def check_capacity(config: TrainConfig, nodes: Sequence[Mapping[str, float]] | None) -> None:
    """Refuse at once what Ray would wait for without end.

    Args:
        config: what is wanted.
        nodes: resources of each node of the cluster as Ray counts them; None when there is no session.

    Raises:
        ClusterError: naming what is there and what is needed.
    """
    if nodes is None:
        raise ClusterError(
            "No Ray session is running. Start one with chatsearch.session.ray_session(), or set num_workers=0."
        )
    if config.autoscaling:
        return
    loader = config.loader
    least = config.min_workers or config.num_workers
    field = "min_workers" if config.min_workers else "num_workers"
    needed = {
        "CPU": least * (config.cpus_per_worker + loader.num_tasks * loader.cpus_per_task),
        "GPU": float(least if config.use_gpu else 0),
    }
    for name, amount in needed.items():
        held = sum(node.get(name, 0.0) for node in nodes)
        if held < amount:
            raise ClusterError(
                f"{least} workers need {amount:g} {name}s with their data tasks, the cluster has {held:g}. Lower {field}, "
                "cpus_per_worker or loader.cpus_per_task, add nodes, or set autoscaling=true if the cluster adds them by itself."
            )

    each = {"CPU": config.cpus_per_worker, **({"GPU": 1.0} if config.use_gpu else {})}
    # A worker lies on one node. Data tasks are small and may lie anywhere.
    num_fitting = sum(math.floor(min(node.get(name, 0.0) / each[name] for name in each) + 1e-9) for node in nodes)
    if num_fitting < least:
        wanted = " and ".join(f"{amount:g} {name}s" for name, amount in each.items())
        held_by = "; ".join(" and ".join(f"{node.get(name, 0.0):g} {name}s" for name in each) for node in nodes)
        raise ClusterError(
            f"A worker needs {wanted} on one node, {least} are wanted and the nodes have room for {num_fitting}: {held_by}. Lower "
            f"{field} or cpus_per_worker, take larger nodes, or set autoscaling=true if the cluster adds them by itself."
        )


def _last_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__)[:300]
