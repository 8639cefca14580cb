"""All protocols from configuration to JSON file, on the drawn world with an untrained model."""

import json
import os

import pytest
from chatsearch.errors import ConfigError, ConflictingOutputError, FingerprintMismatchError
from chatsearch.evaluate.config import EvaluateConfig
from chatsearch.evaluate.run import evaluate, flat_metrics
from chatsearch.evaluate.table import table_of
from chatsearch.tracking.tracker import NullTracker

from jobs.evaluate import recognise
from tests.unit.evaluate.test_text_to_image import jpeg, write_folder


class Recorder(NullTracker):
    def __init__(self):
        self.metrics = {}

    def log_metrics(self, metrics, step=None):
        self.metrics |= metrics


def run(tmp_path, **values):
    config = EvaluateConfig(output=str(tmp_path / "deep" / "result.json"), **values)
    tracker = Recorder()
    result = evaluate(config, tracker)
    written = json.loads((tmp_path / "deep" / "result.json").read_text())
    assert written == json.loads(json.dumps(result))
    assert written["model"]["fingerprint"]
    assert written["date"]
    assert os.listdir(tmp_path / "deep") == ["result.json"]
    assert all(isinstance(value, float) for value in tracker.metrics.values())
    return written, tracker.metrics


def test_chatsearch(world, tmp_path):
    values = {"model": world.bundle, "data": world.shards, "index": world.index}
    result, metrics = run(tmp_path, protocol="chatsearch", **values)
    assert list(result["methods"]) == ["ChatSearcher", "random (expected)", "random (simulated)"]
    assert set(result["methods"]["ChatSearcher"]) == {"t", "i", "m", "average"}
    assert metrics["methods/ChatSearcher/t/all/R@10"] == result["methods"]["ChatSearcher"]["t"]["all"]["R@10"]
    assert result["inputs"]["index"]["uri"] == world.index
    tables = table_of(result)
    assert [len(table.rows) for table in tables] == [3, 3]
    assert tables[0].header == ("method", *(f"{t} R@{k}" for t in "tim" for k in (1, 5, 10)), "Avg.")
    assert tables[0].rows[0][0] == "ChatSearcher"
    assert tables[0].rich().row_count == 3
    again, _ = run(tmp_path, protocol="chatsearch", **values)
    assert again["methods"] == result["methods"]


def test_text_to_image_with_ridge(world, tmp_path):
    splits = ["train"] * 12 + ["val"] * 3 + ["test"] * 6
    folder = write_folder(tmp_path / "data", [({"split": s}, jpeg(n)) for n, s in enumerate(splits)])
    result, _ = run(tmp_path, protocol="text_to_image", model=world.bundle, data=folder)
    assert (result["num_queries"], result["num_gallery"], result["split"]) == (12, 6, "test")
    assert result["R@10"] == 100.0
    assert result["baselines"]["random (expected)"]["R@1"] == pytest.approx(100 / 6)
    assert result["baselines"]["bag-of-words ridge"]["num_train_pictures"] == 12
    assert [row[0] for row in table_of(result)[0].rows] == ["ChatSearcher", *result["baselines"]]


def test_the_result_of_another_measurement_is_kept(world, tmp_path):
    splits = ["train"] * 12 + ["val"] * 3 + ["test"] * 6
    folder = write_folder(tmp_path / "data", [({"split": s}, jpeg(n)) for n, s in enumerate(splits)])
    values = {"protocol": "text_to_image", "model": world.bundle, "data": folder}
    result, _ = run(tmp_path, **values)
    assert set(result["inputs"]) == {"data", "train", "val"}
    config = EvaluateConfig(output=str(tmp_path / "deep" / "result.json"), **values)
    assert recognise(config, []).fingerprint == result["fingerprint"]
    # The ridge is fitted on val too: what it has learnt is part of the result.
    with open(tmp_path / "data" / "captions.jsonl", "a") as file:
        file.write(json.dumps({"id": "more", "file": "13.jpg", "captions": ["a thing"], "split": "val"}) + "\n")
    assert recognise(config, []) is None
    with pytest.raises(ConflictingOutputError, match=f"{result['fingerprint']}.*overwrite=true"):
        evaluate(config, NullTracker())
    assert json.loads((tmp_path / "deep" / "result.json").read_text()) == result
    replaced, _ = run(tmp_path, overwrite=True, **values)
    assert replaced["fingerprint"] != result["fingerprint"]
    assert recognise(config.replace(seed=1), []) is None


@pytest.mark.parametrize("overwrite", [True, False])
def test_a_file_that_is_no_result_is_never_replaced(world, tmp_path, overwrite):
    (tmp_path / "package.json").write_text('{"name": "mine"}')
    config = EvaluateConfig(
        protocol="decision",
        model=world.bundle,
        data=world.shards,
        output=str(tmp_path / "package.json"),
        overwrite=overwrite,
    )
    with pytest.raises(ConflictingOutputError, match="left as it is"):
        evaluate(config, NullTracker())
    assert (tmp_path / "package.json").read_text() == '{"name": "mine"}'


def test_text_to_image_on_everything_has_no_ridge(world, tmp_path):
    folder = write_folder(tmp_path / "data", [({}, jpeg(n)) for n in range(3)])
    result, _ = run(tmp_path, protocol="text_to_image", model=world.bundle, data=folder)
    assert (result["split"], result["num_gallery"]) == ("all", 3)
    assert list(result["baselines"]) == ["random (expected)"]


def test_decision(world, tmp_path):
    result, metrics = run(tmp_path, protocol="decision", model=world.bundle, data=world.shards, max_words=3)
    counts = result["decision"]["first_token"]
    assert counts["hits"] + counts["misses"] == result["num_retrieval"] == 19
    assert counts["false_alarms"] + counts["silences"] == result["num_question"] == 6
    assert "decision/in_answer/recall" in metrics
    assert len(table_of(result)[0].rows) == 2


def test_interaction(world, tmp_path):
    values = {"model": world.bundle, "data": world.shards, "index": world.index}
    result, metrics = run(tmp_path, protocol="interaction", **values)
    assert result["num_dialogues"] == 5
    assert list(result["interaction"]) == ["unchanged", "other pick", "other words"]
    assert metrics["interaction/other pick/shared"] == result["interaction"]["other pick"]["shared"]
    assert [row[0] for row in table_of(result)[0].rows] == list(result["interaction"])
    assert set(result["inputs"]) == {"data", "index", "features"}
    with pytest.raises(ConfigError, match="index is not set; protocol=interaction"):
        run(tmp_path, **{**values, "protocol": "interaction", "index": ""})


def test_what_is_missing_or_does_not_fit_is_named(world, tmp_path):
    output = str(tmp_path / "a.json")
    with pytest.raises(ConfigError, match="index is not set; protocol=chatsearch"):
        evaluate(EvaluateConfig(model=world.bundle, data=world.shards, output=output), NullTracker())
    with pytest.raises(FingerprintMismatchError):
        evaluate(
            EvaluateConfig(model=world.bundle, data=world.shards, index=world.features, output=output), NullTracker()
        )
    with pytest.raises(ConfigError, match=r"must name a \.json file"):
        EvaluateConfig(output="report")


def test_flat_metrics_keeps_numbers_only():
    nested = {"a": {"b": 1, "c": None, "d": "x"}, "e": True, "f": 2.5}
    assert flat_metrics(nested) == {"a/b": 1.0, "f": 2.5}
