"""Fixtures that several test folders share: one Ray session, one S3 server, the sample photographs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

# Ray, transformers and the AWS clients read these when they are first imported: they are set before any test module is.
os.environ.update(
    {
        "RAY_AUTH_MODE": "disabled",  # a throw-away cluster
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # on Linux too: the node's address is 127.0.0.1 and nothing else listens
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        "HF_HUB_OFFLINE": "1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "DS_ACCELERATOR": "cpu",
        "TOKENIZERS_PARALLELISM": "false",
    }
)
os.environ.setdefault("OMP_NUM_THREADS", "2")

import pytest
from hypothesis import settings

from tests.sample_data import ABSENT, sample_folder

# No example has a time limit: speed is measured by benchmarks, and a busy machine is no failure.
settings.register_profile("chatsearch", deadline=None)
settings.load_profile("chatsearch")


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """One local Ray for the whole run. Every test that asks for it also carries ``@pytest.mark.ray``."""
    import ray

    started_here = not ray.is_initialized()
    if started_here:
        ray.init(
            address="local",  # not whatever ray start has last begun on this machine
            num_cpus=4,
            include_dashboard=False,
            object_store_memory=200 * 1024**2,
            log_to_driver=False,
        )
    yield
    if started_here:
        ray.shutdown()


@pytest.fixture(scope="session")
def sample_data() -> Path:
    """The folder of sample photographs and format samples (``captioned/``, ``formats/``)."""
    folder = sample_folder()
    if not (folder / "captioned" / "captions.jsonl").is_file():
        pytest.skip(ABSENT.format(folder=folder))
    return folder


@pytest.fixture(scope="session")
def s3_session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real S3 server with access keys; yields ``s3://bucket`` while the AWS variables point at it."""
    from chatsearch.testing.s3 import s3_server

    with s3_server(tmp_path_factory.mktemp("s3")) as server:
        yield f"s3://{server.bucket}"


@pytest.fixture
def s3(s3_session: str, request: pytest.FixtureRequest) -> str:
    """A base URI on the S3 server that no other test uses. Tests that ask for it also carry ``@pytest.mark.s3``."""
    name = "".join(c if c.isalnum() else "-" for c in request.node.nodeid).strip("-")
    return f"{s3_session}/{name[-60:].strip('-')}"
