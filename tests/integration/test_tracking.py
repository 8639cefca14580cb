"""Recording in a real MLflow: a SQLite store, a server process, a dead port, a server that dies."""

import json
import logging
import os
import signal
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager

import pytest
from chatsearch.testing.ports import free_ports
from chatsearch.tracking.config import RunKey, TrackingConfig, sqlite_uri
from chatsearch.tracking.mlflow import MlflowTracker
from chatsearch.tracking.run_writer import FINGERPRINT_TAG, URI_TAG, connect

BUNDLE = "s3://bucket/bundles/one"


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A SQLite store whose tables are created once for all tests of this file."""
    uri = sqlite_uri(tmp_path_factory.mktemp("tracking") / "mlflow.db")
    connect(uri).search_experiments()
    return uri


@contextmanager
def running_server(store, folder, port=None):
    """A ``mlflow server`` process on loopback."""
    port = port or free_ports(1)[0]
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", store, "--host", "127.0.0.1"]
    command += ["--port", str(port), "--workers", "1", "--artifacts-destination", str(folder / "artefacts")]
    command += ["--allowed-hosts", f"127.0.0.1:{port}"]
    with open(folder / "server.log", "wb") as log:
        process = subprocess.Popen(
            command,
            cwd=folder,
            stdout=log,
            stderr=log,
            start_new_session=True,
            env={**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true"},
        )
    uri = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 90
        while True:
            try:
                urllib.request.urlopen(f"{uri}/health", timeout=2).close()
                break
            except OSError:
                assert process.poll() is None, (folder / "server.log").read_text()
                assert time.monotonic() < deadline, (folder / "server.log").read_text()
                time.sleep(0.2)
        yield uri, process
    finally:
        stop(process)


def stop(process):
    """Kill the server and the worker processes it started."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(30)


def record_a_run(uri, experiment, *, key="train-1"):
    config = TrackingConfig(uri=uri, experiment=experiment, series_every=10)
    with MlflowTracker(config, RunKey(job="train", key=key, parent="study")) as tracker:
        tracker.log_params({"optimizer.rate": 2e-5, "shards": "http://me:secret@host/x", "steps": 100})
        tracker.log_input("documents", "s3://bucket/shards", "f00d")
        for step in range(1, 56):
            tracker.log_metrics({"loss": 1.0 / step}, step=step)
        tracker.log_metrics({"R@1": 12.5, "t/R@10": 40.0})
        tracker.log_artefact("report.json", {"R@1": 12.5})
        tracker.set_tag("size", "tiny")
        tracker.log_output("bundle", BUNDLE, "beef")
        tracker.register_model("chatsearch", BUNDLE, "beef", alias="champion", metrics={"R@1": 12.5})


def runs_of(client, experiment):
    found = client.search_runs([client.get_experiment_by_name(experiment).experiment_id])
    return {run.info.run_name: run for run in found}


def check_the_run(uri, experiment):
    client = connect(uri)
    runs = runs_of(client, experiment)
    assert set(runs) == {"train", "study"}
    run = runs["train"]
    assert run.data.tags["mlflow.parentRunId"] == runs["study"].info.run_id
    assert run.info.status == "FINISHED"
    assert run.data.params == {"optimizer.rate": "2e-05", "shards": "http://***@host/x", "steps": "100"}
    series = client.get_metric_history(run.info.run_id, "loss")
    assert [(m.step, m.value) for m in series] == [(s, 1.0 / s) for s in (10, 20, 30, 40, 50, 55)]
    assert run.data.metrics["R_at_1"] == 12.5
    assert run.data.metrics["t/R_at_10"] == 40.0
    (source,) = run.inputs.dataset_inputs
    assert (source.dataset.name, source.dataset.digest) == ("documents", "f00d")
    assert json.loads(source.dataset.source) == {"uri": "s3://bucket/shards"}
    assert run.data.tags["size"] == "tiny"
    assert run.data.tags["output.bundle"] == BUNDLE
    assert [a.path for a in client.list_artifacts(run.info.run_id)] == ["report.json"]
    version = client.get_model_version_by_alias("chatsearch", "champion")
    assert version.run_id == run.info.run_id
    model = client.get_logged_model(version.tags["chatsearch.model_id"])
    assert model.source_run_id == run.info.run_id
    assert [(m.key, m.value) for m in model.metrics] == [("R_at_1", 12.5)]
    assert (version.tags[URI_TAG], version.tags[FINGERPRINT_TAG]) == (BUNDLE, "beef")


def test_a_sqlite_store_holds_the_whole_run(tmp_path):
    uri = sqlite_uri(tmp_path / "new" / "mlflow.db")
    record_a_run(uri, "one")
    check_the_run(uri, "one")


def test_the_same_key_continues_the_run(store):
    config = TrackingConfig(uri=store, experiment="continued")
    run = RunKey(job="train", key="train-7", parent="study")
    with pytest.raises(RuntimeError, match="worker died"), MlflowTracker(config, run) as tracker:
        tracker.log_params({"workers": 2, "seed": 7})
        tracker.log_metrics({"loss": 3.0}, step=1)
        raise RuntimeError("worker died")
    client = connect(store)
    assert runs_of(client, "continued")["train"].info.status == "FAILED"
    driver = MlflowTracker(config, run)
    driver.log_params({"workers": 1, "seed": 7})
    driver.log_metrics({"loss": 2.0}, step=2)
    wait_until(lambda: runs_of(client, "continued")["train"].info.status == "RUNNING")
    driver.finish()
    driver.finish()
    (train, study) = (runs_of(client, "continued")[name] for name in ("train", "study"))
    assert (train.info.status, study.info.status) == ("FINISHED", "FINISHED")
    assert train.data.params == {"workers": "2", "seed": "7"}
    assert train.data.tags["changed.workers"] == "1"
    assert [m.step for m in client.get_metric_history(train.info.run_id, "loss")] == [1, 2]


def test_a_parent_is_one_run_that_its_own_process_ends(store):
    """The children connect at the same time as the parent, from threads of their own."""
    parent = MlflowTracker(TrackingConfig(uri=store, experiment="family"), RunKey(job="quickstart", key="quick-1"))
    children = [
        MlflowTracker(parent.children, RunKey(job=f"step-{n}", key=f"step-{n}", parent="quick-1")) for n in range(3)
    ]
    for child, status in zip(children, ("FINISHED", "FAILED", "FINISHED"), strict=True):
        child.finish(status)
    client = connect(store)
    runs = runs_of(client, "family")
    assert set(runs) == {"quickstart", "step-0", "step-1", "step-2"}
    assert len(client.search_runs([client.get_experiment_by_name("family").experiment_id])) == 4
    assert runs["quickstart"].info.status == "RUNNING"
    assert {run.data.tags.get("mlflow.parentRunId") for name, run in runs.items() if name != "quickstart"} == {
        runs["quickstart"].info.run_id
    }
    parent.finish("KILLED")
    assert runs_of(client, "family")["quickstart"].info.status == "KILLED"


def test_one_bundle_is_one_version_and_the_alias_moves(store):
    config = TrackingConfig(uri=store, experiment="registry")
    for key, fingerprint in (("a", "f1"), ("b", "f2"), ("a", "f1")):
        with MlflowTracker(config, RunKey(job="train", key=key)) as tracker:
            tracker.register_model("finder", f"/models/{key}", fingerprint, alias="champion")
            tracker.register_model("finder", f"/models/{key}", fingerprint, alias="latest")
    client = connect(store)
    assert len(client.search_model_versions("name = 'finder'")) == 2
    tags = client.get_model_version_by_alias("finder", "champion").tags
    assert (tags[URI_TAG], tags[FINGERPRINT_TAG]) == ("/models/a", "f1")


def test_a_server_holds_the_whole_run(store, tmp_path):
    with running_server(store, tmp_path) as (uri, _):
        record_a_run(uri, "served")
        check_the_run(uri, "served")


@pytest.mark.timeout(180)
def test_a_server_killed_in_mid_run_stops_and_slows_nothing(store, tmp_path, caplog):
    with running_server(store, tmp_path) as (uri, process), caplog.at_level(logging.WARNING):
        tracker = MlflowTracker(TrackingConfig(uri=uri, experiment="killed"), RunKey(job="train", key="k"))
        for step in range(20):
            tracker.log_metrics({"loss": 1.0}, step=step)
        client = connect(store)
        wait_until(lambda: runs_of(client, "killed")["train"].data.metrics.get("loss") == 1.0)
        # A server that has stopped answers nothing: a call that waited for it would not come back before the test's limit.
        os.killpg(process.pid, signal.SIGSTOP)
        for step in range(20, 2_000):
            tracker.log_metrics({"loss": 2.0}, step=step)
        stop(process)
        tracker.finish()
    run = runs_of(client, "killed")["train"]
    assert len(client.get_metric_history(run.info.run_id, "loss")) == 20
    assert sum("cannot be reached; the job goes on" in r.message for r in caplog.records) == 1
    assert sum("entries were not recorded" in r.message for r in caplog.records) == 1


@pytest.mark.timeout(240)
def test_a_server_that_comes_back_is_told_all_that_it_missed(store, tmp_path, caplog):
    (port,) = free_ports(1)
    config = TrackingConfig(uri=f"http://127.0.0.1:{port}", experiment="back")
    client = connect(store)
    with running_server(store, tmp_path, port), caplog.at_level(logging.WARNING):
        tracker = MlflowTracker(config, RunKey(job="train", key="b"))
        for step in range(20):
            tracker.log_metrics({"loss": float(step)}, step=step)
        wait_until(lambda: runs_of(client, "back")["train"].data.metrics.get("loss") == 19.0)
    for step in range(20, 40):
        tracker.log_metrics({"loss": float(step)}, step=step)
    tracker.set_tag("size", "tiny")
    wait_until(lambda: any("cannot be reached; the job goes on" in r.message for r in caplog.records))
    with running_server(store, tmp_path, port):
        for step in range(40, 60):
            tracker.log_metrics({"loss": float(step)}, step=step)
        tracker.finish()
    run = runs_of(client, "back")["train"]
    history = client.get_metric_history(run.info.run_id, "loss")
    assert [(m.step, m.value) for m in history] == [(step, float(step)) for step in range(60)]
    assert run.data.tags["size"] == "tiny"
    assert run.info.status == "FINISHED"
    assert not any("were not recorded" in r.message for r in caplog.records)


@pytest.mark.parametrize("where", ["http://127.0.0.1:{port}", "sqlite:////proc/nowhere/mlflow.db"])
@pytest.mark.timeout(180)  # 20,000 calls that each tried to reach the store would take hours
def test_a_store_that_is_not_there_holds_nobody_up(where, caplog):
    config = TrackingConfig(uri=where.format(port=free_ports(1)[0]), flush_limit_s=15)
    tracker = MlflowTracker(config, RunKey(job="train", key="dead", parent="study"))
    for step in range(20_000):
        tracker.log_metrics({"loss": 1.0}, step=step)
    with caplog.at_level(logging.WARNING):
        tracker.finish()
    assert any("were not recorded" in r.message for r in caplog.records)


def wait_until(condition, limit_s=60):
    deadline = time.monotonic() + limit_s
    while True:
        try:
            if condition():
                return
        except (AttributeError, KeyError):  # the experiment or the run is not there yet
            pass
        assert time.monotonic() < deadline
        time.sleep(0.2)
