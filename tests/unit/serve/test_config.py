"""The deploy files are what Ray Serve and build_app accept, key by key."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from chatsearch.errors import ConfigError
from pydantic import ValidationError
from ray.serve.schema import DeploymentSchema, ServeDeploySchema

from serve.app import deployment_options
from serve.settings import Scaling, ServeArgs

FILES = sorted((Path(__file__).resolve().parents[3] / "serve" / "config").glob("*.yaml"))


def unknown_keys(given: Any, known: Any, path: str = "") -> list[str]:
    """Keys of the file that the schema dropped: it ignores what it does not know."""
    if isinstance(given, dict) and isinstance(known, dict):
        missing = [f"{path}{key}" for key in given if key not in known]
        inner = [unknown_keys(given[key], known[key], f"{path}{key}.") for key in given if key in known]
        return missing + [key for keys in inner for key in keys]
    if isinstance(given, list) and isinstance(known, list):
        return [
            key
            for at, (g, k) in enumerate(zip(given, known, strict=True))
            for key in unknown_keys(g, k, f"{path}{at}.")
        ]
    return []


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_a_deploy_file_is_valid_and_has_no_unknown_keys(path: Path) -> None:
    given = yaml.safe_load(path.read_text())
    schema = ServeDeploySchema.model_validate(given)
    assert unknown_keys(given, schema.model_dump(warnings=False)) == []
    (application,) = schema.applications
    assert application.import_path == "serve.app:build_app"
    args = ServeArgs.model_validate(application.args)
    assert schema.http_options.request_timeout_s is not None
    assert schema.http_options.request_timeout_s > args.turn_timeout_s, "our own time limit comes first"
    for scaling in (args.ingress_scaling, args.model_scaling, args.shard_scaling):
        options = deployment_options(scaling, args)
        deployment = DeploymentSchema.model_validate({"name": "x", **options})
        assert deployment.autoscaling_config
        assert deployment.max_queued_requests == scaling.max_queued_requests
        assert deployment.graceful_shutdown_timeout_s == args.turn_timeout_s
        assert unknown_keys(options, deployment.model_dump(warnings=False)) == []


def test_there_are_deploy_files() -> None:
    assert {path.name for path in FILES} == {"local.yaml", "cluster.yaml"}


def test_the_local_file_listens_on_loopback() -> None:
    given = yaml.safe_load(next(p for p in FILES if p.name == "local.yaml").read_text())
    assert given["http_options"]["host"] == "127.0.0.1"


@pytest.mark.parametrize(
    "scaling",
    [{"min_replicas": 3, "max_replicas": 2}, {"target_ongoing_requests": 8, "max_ongoing_requests": 8}],
)
def test_scaling_that_cannot_work_is_refused(scaling: dict[str, Any]) -> None:
    with pytest.raises((ConfigError, ValidationError), match=r"below"):
        Scaling(**scaling)


def test_local_paths_are_made_absolute_because_replicas_run_elsewhere() -> None:
    args = ServeArgs(model="runs/m", index="s3://b/i", images="runs/s", database="sqlite:///runs/c.db")  # type: ignore[arg-type]
    here = Path.cwd()
    assert args.model == str(here / "runs/m")
    assert args.index == "s3://b/i"
    assert args.images == (str(here / "runs/s"),)
    assert args.database == f"sqlite:///{here}/runs/c.db"
    assert args.replace(database="postgresql://h/d").database == "postgresql://h/d"
    with pytest.raises(ConfigError, match=r"is no URL\. Write sqlite:///"):
        args.replace(database="conversations.db")
