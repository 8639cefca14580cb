"""``ray_cluster.yaml`` holds against Ray's own schema and against what this project asks of a cluster."""

from __future__ import annotations

import importlib
import json
import shlex
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from chatsearch.manifest import input_uris

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def cluster() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "ray_cluster.yaml").read_text())


def test_schema(cluster: dict[str, Any]) -> None:
    import ray.autoscaler

    schema = json.loads((Path(ray.autoscaler.__file__).parent / "ray-schema.json").read_text())
    jsonschema.validate(cluster, schema)


def test_head_is_on_demand_and_runs_no_tasks(cluster: dict[str, Any]) -> None:
    head = cluster["available_node_types"][cluster["head_node_type"]]
    assert "InstanceMarketOptions" not in head["node_config"]
    assert head["resources"]["CPU"] == 0
    assert any("--num-cpus=0" in command for command in cluster["head_start_ray_commands"])


def test_there_are_nodes_of_eight_a100(cluster: dict[str, Any]) -> None:
    kinds = [node["node_config"]["InstanceType"] for node in cluster["available_node_types"].values()]
    assert "p4de.24xlarge" in kinds


def test_every_node_names_its_image(cluster: dict[str, Any]) -> None:
    for node in cluster["available_node_types"].values():
        assert node["node_config"]["ImageId"].startswith("ami-")


def test_workers_have_a_role_of_their_own(cluster: dict[str, Any]) -> None:
    """Ray makes one for the head alone, and a worker without one reads nothing from S3."""
    for name, node in cluster["available_node_types"].items():
        if name != cluster["head_node_type"]:
            assert node["node_config"]["IamInstanceProfile"]["Arn"].startswith("arn:aws:iam::")


def test_the_readme_trains_with_keys_that_exist_and_places_that_all_nodes_reach() -> None:
    lines = (ROOT / "README.md").read_text().replace("\\\n", "").replace("'$ROOT'", "$ROOT").splitlines()
    commands = [shlex.split(line) for line in lines if "chatsearch submit" in line and "$ROOT" in line]
    assert [command[2] for command in commands] == ["weights", "prepare", "prepare", "train"]
    for command in commands:
        job = importlib.import_module(f"jobs.{command[2]}").JOB
        options = dict(zip(command[3::2], command[4::2], strict=True))
        settings = [text for flag, text in zip(command[3::2], command[4::2], strict=True) if flag == "--set"]
        _, config = job.configure(options["--recipe"], [text.replace("$ROOT", "s3://bucket/x") for text in settings])
        places = [uri for key, uri in input_uris(config) if key != "downloads"]
        assert all(uri.startswith("s3://") for uri in [*places, config.output])


def test_every_start_asks_for_the_token(cluster: dict[str, Any]) -> None:
    starts = [
        command
        for part in ("head_start_ray_commands", "worker_start_ray_commands")
        for command in cluster[part]
        if "ray start" in command
    ]
    assert len(starts) == 2
    for command in starts:
        assert "RAY_AUTH_MODE=token" in command.split("ray start")[0].rsplit(";", 1)[-1]
        assert "0.0.0.0" not in command
    assert "~/.ray/auth_token" in cluster["file_mounts"]
