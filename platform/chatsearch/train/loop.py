"""What every training worker does, from start to end."""

from __future__ import annotations

import logging
import os
import platform
import warnings
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from chatsearch.data.pack import Batch
from chatsearch.data.plan import rank_slice
from chatsearch.data.rejections import SHOWN
from chatsearch.data.steps import StepBuilder
from chatsearch.errors import StorageError
from chatsearch.index.features import FeatureStore
from chatsearch.model.bundle import num_parameters, write_bundle
from chatsearch.patience import Patience
from chatsearch.storage import Folder, filesystem, is_remote
from chatsearch.train import checkpoint
from chatsearch.train.checkpoint import SavedCheckpoint
from chatsearch.train.config import TrainConfig
from chatsearch.train.features import FrozenFeatures, OnlineFeatures, StoredFeatures
from chatsearch.train.head_start import start_heads
from chatsearch.train.input_start import scale_image_inputs
from chatsearch.train.memory import check_memory, host_memory
from chatsearch.train.preflight import check_documents, rehearse
from chatsearch.train.reporter import Reporter, Waiting
from chatsearch.train.start import Start, load_start
from chatsearch.train.trainer import Trainer
from chatsearch.train.validation import Validator
from chatsearch.train.worker import WorkerJob
from chatsearch.train.writer import CheckpointWriter, find_checkpoint

logger = logging.getLogger(__name__)


def run_worker(job: WorkerJob) -> dict[str, Any]:
    """Train, and on rank 0 write the bundle's files into the output.

    Returns:
        Counts and facts for the bundle's manifest, from rank 0.

    Raises:
        ChatSearchError: of any kind, from whatever cannot go on.
    """
    torch.set_num_threads(job.config.threads_per_worker)
    _quiet()
    _join_group()
    rank, world_size = dist.get_rank(), dist.get_world_size()
    if job.config.min_workers is not None:  # this attempt's group has one of the sizes that it may have
        job = replace(job, config=job.config.replace(num_workers=world_size, min_workers=None))
    config = job.config
    _check_memory(config)

    # ---- what the run starts from ---------------------------------------------------------------------------
    patient = partial(Patience, seconds=config.store_patience_s, say=job.sink.say)
    start = patient(config.weights).insist(lambda: load_start(config))
    root = Folder(job.checkpoints)
    patience = patient(root.uri)
    saved, token = find_checkpoint(root, job.run, patience)
    if saved is None and not start.is_trained and config.heads.num_steps and rank == 0:
        job.sink.say(f"retrieval heads in closed form from the documents of {config.heads.num_steps} steps")
    builder, trainer = assemble(config, start, fresh=saved is None, say=job.sink.say)

    # ---- where it goes on: 1. its own newest whole checkpoint, 2. the starting weights --------------------------
    if saved is not None:
        if rank == 0:
            job.sink.say(f"goes on from the checkpoint of step {saved.manifest.step}")
        patience.insist(partial(trainer.restore, saved))
        _adopt(saved, job)
    first = saved.manifest.step if saved is not None else 0

    if first < config.steps:
        rehearse(trainer, lambda: builder.build(first, rank, world_size))

    # ---- the steps -------------------------------------------------------------------------------------------
    writer = CheckpointWriter(root, run=job.run, token=token, say=job.sink.say)
    with writer:
        saved = _make_steps(job, builder, trainer, writer, first) or saved

    # ---- the bundle --------------------------------------------------------------------------------------------
    assert saved is not None
    if rank != 0:
        return {}
    num_rejected = int(saved.manifest.metrics.get("documents_rejected", 0))
    if num_rejected:
        job.sink.say(f"{num_rejected} of {config.steps * config.per_step} documents gave no example")
    searcher = patience.insist(partial(trainer.export, saved))
    facts = patience.insist(lambda: write_bundle(Folder(config.output), searcher, start.vision, start.tokenizer))
    counts = {
        "parameters": num_parameters(searcher),
        "steps": config.steps,
        "documents": config.steps * config.per_step,
    }
    return {"counts": counts, "facts": {**facts, "stage": config.stage, "last_step": saved.manifest.metrics}}


def _make_steps(
    job: WorkerJob, builder: StepBuilder, trainer: Trainer, writer: CheckpointWriter, first: int
) -> SavedCheckpoint | None:
    """All steps from ``first`` on, with checkpoints and reports; returns the last checkpoint, None where no step was left."""
    config, rank = job.config, dist.get_rank()
    reporter = Reporter(job, rank, torch.cuda.get_device_name(trainer.device) if config.use_gpu else None)
    validator = None
    if config.validation.shards:
        patience = Patience(config.validation.shards, config.store_patience_s, job.sink.say)
        validator = patience.insist(lambda: Validator(trainer, builder))
    num_said = 0
    with closing(_batches(builder, config, rank, dist.get_world_size(), first)) as steps:
        arriving = Waiting(steps)
        for step, batches in arriving:
            for reason in [reason for batch in batches for reason in batch.rejected][: SHOWN - num_said]:
                job.sink.say(f"left out: {reason}")
                num_said += 1
            metrics = trainer.step(step, batches)
            writer.raise_failed()
            if (step + 1) % config.checkpoint_every == 0 or step + 1 == config.steps:
                _report(writer.wait(), job)  # the one before
                writer.start(step + 1, metrics, trainer.snapshot())
            if validator is not None and config.validates_after(step + 1):
                metrics = {**metrics, **validator.measure()}
            metrics = {**metrics, "checkpoints_failed": writer.num_failed}
            reporter.after(step + 1, metrics, trainer.cost, arriving.take())
        last = writer.finish(config.store_patience_s)
        _report(last, job)
    return last


def assemble(
    config: TrainConfig, start: Start, *, fresh: bool = True, say: Callable[[str], None] = logger.warning
) -> tuple[StepBuilder, Trainer]:
    """The two halves of a worker: what makes batches and what learns from them. All ranks call it.

    Args:
        config: of the stage.
        start: its parts before the first step.
        fresh: no checkpoint will be restored, so what no weights are known for has to start somewhere.
        say: takes what people should know of an object store that does not answer.

    Raises:
        TooManyRejectedError: the documents teach nothing.
        ConfigError: the heads' closed form finds too few pictures.
    """
    rank, world_size = dist.get_rank(), dist.get_world_size()
    builder = _step_builder(config, start, say)
    if fresh:
        check_documents(builder, config)
    features = _features_for(config, start, say)
    if fresh and not start.is_trained:
        device = torch.device("cuda", torch.cuda.current_device()) if config.use_gpu else torch.device("cpu")
        searcher = start.searcher.to(device)
        if config.scale_image_inputs:
            scale_image_inputs(searcher, builder.build(0, rank, world_size), features(device))
        if config.heads.num_steps:
            batches = (b for step in range(config.heads.num_steps) for b in builder.build(step, rank, world_size))
            start_heads(searcher, batches, features(device), config.heads, mixed=config.precision == "mixed")
    return builder, Trainer(start.searcher, config, features, _sample_names(builder, world_size))


def _quiet() -> None:
    """Ray and torch tell every worker's terminal about each report and each deprecated call inside DeepSpeed."""
    for name in ("ray.train", "ray.data"):
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch.distributed")


def _join_group() -> None:
    """Ray Train has set up the process group; a loop in the driver's process gets one of its own."""
    if not dist.is_initialized():
        os.environ.setdefault("LOCAL_RANK", "0")  # DeepSpeed asks for it
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)


def _check_memory(config: TrainConfig) -> None:
    """Refuse what cannot fit, before weights are read: a worker that is killed for memory leaves no message."""
    if config.use_gpu:
        device = torch.cuda.get_device_properties(torch.cuda.current_device())
        check_memory(config, device.total_memory, where=device.name)
    else:
        num_sharing = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # Ray Train tells its workers
        check_memory(config, host_memory(), where=f"host {platform.node()}", num_sharing=num_sharing)


def _step_builder(config: TrainConfig, start: Start, say: Callable[[str], None]) -> StepBuilder:
    return StepBuilder(
        streams=config.streams,
        tokenizer=start.tokenizer,
        num_queries=config.model.num_queries,
        max_length=config.max_length,
        answer_only=config.answer_only,
        seed=config.seed,
        num_micro_batches=config.accumulation,
        held_out=config.held_out if config.decontaminate else (),
        preprocess=None if config.features else start.vision.preprocessing,
        store_patience_s=config.store_patience_s,
        say=say,
    )


def _features_for(
    config: TrainConfig, start: Start, say: Callable[[str], None]
) -> Callable[[torch.device], FrozenFeatures]:
    if not config.features:
        return lambda device: OnlineFeatures(start.vision, device)
    patience = Patience(config.features, config.store_patience_s, say)
    store = patience.insist(lambda: FeatureStore.open(config.features))
    return lambda device: patience.insist(lambda: StoredFeatures(store, device))


def _sample_names(builder: StepBuilder, world_size: int) -> Callable[[int, int], list[str]]:
    def names(step: int, rank: int) -> list[str]:
        share = rank_slice(builder.plan.step(step), rank, world_size)
        sources = builder.sources
        return [sources[s.stream][0].document(int(sources[s.stream][1][s.document])).document_id for s in share]

    return names


def _batches(
    builder: StepBuilder, config: TrainConfig, rank: int, world_size: int, first: int
) -> Generator[tuple[int, list[Batch]]]:
    """The micro-batches of each step that is left, prefetched by Ray Data where there is a cluster."""
    if config.num_workers == 0:
        for step in range(first, config.steps):
            yield step, builder.build(step, rank, world_size)
        return
    from chatsearch.data.stream import rank_batches

    yield from rank_batches(builder, rank, world_size, start=first, stop=config.steps, loader=config.loader)


def _adopt(saved: SavedCheckpoint, job: WorkerJob) -> None:
    """Report a checkpoint that was whole when the last attempt died, but not reported yet: Ray deletes only what it knows."""
    if job.config.num_workers == 0:
        return
    import ray.train

    known = ray.train.get_checkpoint()
    if known is None or Path(known.path).name < Path(saved.folder.uri).name:
        _report(saved, job)


def _report(saved: SavedCheckpoint | None, job: WorkerJob) -> None:
    """Let go of checkpoints that are too many; Ray Train does it when every rank reports, which is a barrier."""
    if saved is None:
        return
    if job.config.num_workers == 0:
        if dist.get_rank() != 0:
            return
        root = Folder(saved.folder.uri.rpartition("/")[0])
        try:
            checkpoint.prune(root, job.config.keep_checkpoints)
        except StorageError as error:
            if not is_remote(root.uri):
                raise
            job.sink.say(f"old checkpoints stay for now: {error}")
        return
    import ray.train

    fs, path = filesystem(saved.folder.uri)
    ray.train.report(
        {"step": saved.manifest.step, **saved.manifest.metrics},
        checkpoint=ray.train.Checkpoint(path, fs),
        checkpoint_upload_mode=ray.train.CheckpointUploadMode.NO_UPLOAD,
    )
