"""Documents that give no example: a corpus that teaches nothing, too many bad ones, and a few."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from chatsearch.corpora.base import Sample
from chatsearch.data.config import StreamConfig
from chatsearch.data.rejections import Rejections
from chatsearch.errors import InputError, TooManyRejectedError
from chatsearch.manifest import fingerprint
from chatsearch.model.config import HeadsConfig
from chatsearch.testing.training import tiny_training
from chatsearch.tracking.tracker import NullTracker
from chatsearch.train.config import TrainConfig
from chatsearch.train.deepspeed_engine import Engine
from chatsearch.train.run import train

from tests.bad_documents import answered, caption, cut_short, too_long, unanswered, write_documents


class Recorder(NullTracker):
    """Keeps what is logged, by step."""

    def __init__(self) -> None:
        self.series: dict[int, dict[str, float]] = {}
        self.summary: dict[str, float] = {}

    def log_metrics(self, metrics, step=None) -> None:
        if step is None:
            self.summary.update(metrics)
        else:
            self.series[step] = dict(metrics)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rejections")
    tiny_training(folder)
    return folder


@pytest.fixture
def updates(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Rates of the updates that were made."""
    made: list[float] = []
    update = Engine.update

    def counting(self: Engine, rate: float) -> float:
        made.append(rate)
        return update(self, rate)

    monkeypatch.setattr(Engine, "update", counting)
    return made


def configured(folder: Path, name: str, samples: Sequence[Sample], *, per_step: int = 8, **changes) -> TrainConfig:
    shards = write_documents(str(folder / f"{name}-shards"), samples)
    stream = StreamConfig(shards=shards, per_step=per_step)
    return tiny_training(folder, output=str(folder / name), streams=(stream,), stage="tried", **changes)


@pytest.mark.parametrize("make", [unanswered, too_long, cut_short], ids=lambda make: make.__name__)
@pytest.mark.parametrize("number", [6, 40])
def test_a_corpus_that_teaches_nothing_is_refused_by_name(folder: Path, updates, make, number: int) -> None:
    name = f"{make.__name__}-{number}"
    config = configured(folder, name, [make(i) for i in range(number)], per_step=4, steps=2, answer_only=True)
    with pytest.raises(TooManyRejectedError) as caught:
        train(config)
    said = str(caught.value)
    assert "None of the first 8 documents of stage tried (answer_only=true)" in said
    assert config.streams[0].shards in said
    assert "no step was made" in said
    reason = {"unanswered": "nothing to fall on", "too_long": "max_length is 320", "cut_short": "truncated or corrupt"}
    assert said.count(reason[make.__name__]) == 3
    assert said.count("'bad/") >= 3, "each reason names its document"
    assert updates == []


def test_closed_form_heads_do_not_hide_it(folder: Path, updates) -> None:
    config = configured(folder, "heads", [unanswered(i) for i in range(20)], answer_only=True)
    with pytest.raises(TooManyRejectedError, match="nothing to fall on"):
        train(config.replace(heads=HeadsConfig(num_steps=2)))
    assert updates == []


def test_one_good_document_among_a_few_is_something_to_learn_from(folder: Path) -> None:
    samples = [answered(0), *(unanswered(i) for i in range(5))]
    config = configured(folder, "few", samples, per_step=2, steps=3, answer_only=True)
    made = train(config)
    assert made.manifest.facts["last_step"]["documents_rejected"] == 5


def test_many_bad_documents_stop_the_run_between_two_steps_unless_allowed(folder: Path, updates, capsys) -> None:
    samples = [answered(i) if i % 2 else too_long(i) for i in range(40)]
    config = configured(folder, "half", samples, steps=8, checkpoint_every=1)
    with pytest.raises(
        TooManyRejectedError,
        match=r"of stage tried from .*half-shards gave no example, .*max_rejected_fraction=0\.05\.",
    ) as caught:
        train(config)
    assert 0 < len(updates) < 8
    told = [line for line in capsys.readouterr().err.splitlines() if "left out: 'bad/" in line]
    assert len(told) == 3, "the first few"
    assert "max_length is 320" in str(caught.value)
    # Allowed, the same run goes on from its checkpoint and keeps counting where that has stopped.
    recorder = Recorder()
    made = train(config.replace(max_rejected_fraction=1.0), recorder)
    anew = train(config.replace(max_rejected_fraction=1.0, output=str(folder / "half-anew")))
    ours, theirs = (artefact.manifest.facts["last_step"] for artefact in (made, anew))
    assert ours == theirs
    assert recorder.summary["final_documents_rejected"] == ours["documents_rejected"] > 10


def test_four_in_a_hundred_are_left_out_and_counted(folder: Path, capsys) -> None:
    samples = [cut_short(i) if i % 25 == 3 else caption(i) for i in range(100)]
    config = configured(folder, "clean", samples, per_step=10, steps=10, log_every=1)
    recorder = Recorder()
    made = train(config, recorder)
    counted = [recorder.series[step]["documents_rejected"] for step in range(1, 11)]
    assert (np.diff([0, *counted]) >= 0).all()
    assert counted[-1] == 4, "one epoch holds each document once"
    assert recorder.summary["final_documents_rejected"] == 4
    assert made.manifest.facts["last_step"]["documents_rejected"] == 4
    said = capsys.readouterr().err
    assert said.count("left out: Document 'bad/") == 3
    assert "4 of 100 documents gave no example" in said


def test_the_limit_is_a_share_with_a_grace_of_ten() -> None:
    rejections = Rejections(0.05)
    rejections.add(10, 10)
    assert not rejections.too_many
    rejections.add(1, 1)
    assert rejections.too_many
    rejections.add(989, 49)
    assert not rejections.too_many, "60 of 1,000"
    rejections.add(0, 1)
    assert rejections.too_many
    assert "61 of 1000 documents of here gave no example" in str(rejections.error("here", ["a.", "b.", "c.", "d."]))
    rejections = Rejections(1.0)
    rejections.add(1000, 1000)
    assert not rejections.too_many


def test_the_limit_changes_no_fingerprint(folder: Path) -> None:
    config = tiny_training(folder)
    assert fingerprint("x", config, {}) == fingerprint("x", config.replace(max_rejected_fraction=0.5), {})
    with pytest.raises(Exception, match="max_rejected_fraction"):
        config.replace(max_rejected_fraction=1.5)


def test_errors_of_building_come_out_as_they_are(folder: Path, monkeypatch) -> None:
    config = tiny_training(folder, output=str(folder / "lost"))
    from chatsearch.data import steps

    def lost(self, content_hash: str) -> bytes:
        raise InputError("no such picture")

    monkeypatch.setattr(steps.StepBuilder, "_picture", lost)
    with pytest.raises(InputError, match="no such picture"):
        train(config)
