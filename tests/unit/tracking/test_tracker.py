"""Opening a recorder, without MLflow."""

import subprocess
import sys

from chatsearch.tracking.config import RunKey, TrackingConfig, sqlite_path, sqlite_uri
from chatsearch.tracking.mlflow import stored_name, without_password
from chatsearch.tracking.tracker import NullTracker, open_tracker

RUN = RunKey(job="train", key="train-1")


def test_disabled_records_nothing():
    with open_tracker(TrackingConfig(enabled=False), RUN) as tracker:
        tracker.log_metrics({"loss": 1.0}, step=1)
        tracker.log_params({"a": 1})
        tracker.log_input("data", "/data", "abc")
        tracker.log_output("model", "/model", "abc")
        tracker.log_artefact("a.json", {})
        tracker.set_tag("a", "b")
        tracker.register_model("chatsearch", "/model", "abc", alias="champion")
    assert isinstance(tracker, NullTracker)


def test_the_store_never_depends_on_a_later_working_directory(monkeypatch, tmp_path):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    uri = TrackingConfig().resolved_uri()
    assert sqlite_path(uri) == tmp_path / "runs" / "mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracking:5000")
    assert TrackingConfig().resolved_uri() == "http://tracking:5000"
    assert TrackingConfig(uri="here.db").resolved_uri() == sqlite_uri(tmp_path / "here.db")


def test_tracking_is_no_part_of_a_fingerprint():
    assert TrackingConfig(uri="http://tracking:5000").content() == {}


def test_names_and_passwords():
    assert stored_name("t/R@10") == "t/R_at_10"
    assert stored_name("weird?name") == "weird_name"
    assert without_password("at http://me:secret@host/x and s3://k:v@b") == "at http://***@host/x and s3://***@b"
    assert without_password("http://host:5000/a@b") == "http://host:5000/a@b"


def test_opening_a_tracker_imports_no_mlflow_in_the_caller():
    code = (
        "import sys, chatsearch.tracking.tracker, chatsearch.tracking.mlflow, chatsearch.tracking.config;"
        "print([m for m in ('mlflow', 'torch', 'ray', 'pandas') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
