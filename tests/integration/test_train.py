"""Both stages through Ray Train and DeepSpeed on a real Ray session: two workers, ZeRO 1, then ZeRO 2."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from chatsearch.errors import ClusterError, MissingInputError
from chatsearch.index.config import EmbedConfig
from chatsearch.index.embed import embed
from chatsearch.model.bundle import load_bundle
from chatsearch.storage import Folder
from chatsearch.testing.training import tiny_training
from chatsearch.tracking.tracker import NullTracker
from chatsearch.train.run import train

pytestmark = pytest.mark.ray


class Recorder(NullTracker):
    """Keeps the series that a tracker is told."""

    def __init__(self) -> None:
        self.series: dict[int, dict[str, float]] = {}

    def log_metrics(self, metrics, step=None) -> None:
        if step is not None:
            self.series[step] = dict(metrics)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, ray_session) -> Path:
    return tmp_path_factory.mktemp("train")


@pytest.fixture(scope="module")
def aligned(folder: Path):
    """Stage 1 on two workers, from a feature store."""
    config = tiny_training(folder)
    features = embed(
        EmbedConfig(
            gallery=config.streams[0].shards, model=config.weights, output=str(folder / "features"), tokens=True
        )
    )
    recorder = Recorder()
    config = config.replace(
        features=features.uri, output=str(folder / "align"), num_workers=2, zero_stage=1, log_every=1
    )
    return train(config, recorder), recorder, config


def test_two_workers_train_what_one_process_trains(aligned, folder: Path) -> None:
    artefact, recorder, config = aligned
    alone = train(config.replace(num_workers=0, output=str(folder / "alone")))
    mine, theirs = (a.manifest.facts["last_step"] for a in (alone, artefact))
    for name in ("loss", "word_loss", "image_loss", "tau", "queue_fill"):
        assert theirs[name] == pytest.approx(mine[name], rel=1e-3), name
    assert sorted(recorder.series) == [1, 2, 3, 4, 5, 6]
    assert recorder.series[6]["loss"] == theirs["loss"]
    assert load_bundle(artefact.uri).encoder_fingerprint == load_bundle(alone.uri).encoder_fingerprint


def test_checkpoints_are_kept_as_many_as_told(aligned) -> None:
    artefact, _, _ = aligned
    names = [name.split("/")[2] for name in artefact.folder.list("checkpoints") if name.endswith("/manifest.json")]
    assert [name[:13] for name in sorted(names)] == ["step-00000004", "step-00000006"]
    files = Folder(artefact.folder.path("checkpoints")).list()
    assert sum("/rank-0000" in name for name in files) == 4  # two workers, two checkpoints
    assert sum(".safetensors" in name for name in files) == 6


def test_stage_two_under_zero_two_and_bf16_moves_on_from_stage_one(aligned, folder: Path) -> None:
    artefact, _, config = aligned
    second = train(
        config.replace(
            stage="instruct",
            weights=artefact.uri,
            output=str(folder / "instruct"),
            answer_only=True,
            zero_stage=2,
            precision="bf16",
            accumulation=2,
            steps=3,
        )
    )
    before, after = load_bundle(artefact.uri), load_bundle(second.uri)
    assert after.encoder_fingerprint == before.encoder_fingerprint
    assert after.mq_fingerprint != before.mq_fingerprint
    assert np.isfinite(list(second.manifest.facts["last_step"].values())).all()
    weights = after.searcher.state_dict()
    assert all(str(tensor.dtype) == "torch.float32" for tensor in weights.values())
    # fp32 masters are exported, not the bf16 copies that the workers computed with.
    head = weights["gallery_head.weight"]
    assert not bool((head == head.bfloat16().float()).all())


def test_an_error_in_a_worker_reaches_the_caller_by_name_without_useless_restarts(aligned, folder: Path) -> None:
    _, _, config = aligned
    other = tiny_training(folder / "other")
    config = config.replace(
        streams=(other.streams[0].replace(shards=_more_pictures(folder)),), output=str(folder / "error")
    )
    with pytest.raises(MissingInputError, match="is not among the"):
        train(config)


def _more_pictures(folder: Path) -> str:
    from chatsearch.corpora.config import ScenesCounts
    from chatsearch.testing.training import write_tiny_shards

    return write_tiny_shards(str(folder / "more"), ScenesCounts(edit=60))


def test_more_workers_than_the_cluster_holds_fail_at_once(aligned, folder: Path) -> None:
    _, _, config = aligned
    with pytest.raises(ClusterError, match="64 workers need 96 CPUs"):
        train(
            config.replace(
                num_workers=64, streams=(config.streams[0].replace(per_step=64),), output=str(folder / "big")
            )
        )
