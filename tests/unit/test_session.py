"""What Ray and its workers find in the environment, on a laptop and on a cluster."""

from __future__ import annotations

import os
import re
import sys

import pytest
from chatsearch.session import prepare_environment


def prepared(monkeypatch: pytest.MonkeyPatch, **values: str) -> dict[str, str]:
    environment = dict(values)
    monkeypatch.setattr(os, "environ", environment)
    monkeypatch.delitem(sys.modules, "ray", raising=False)  # as in a process that has not imported it yet
    prepare_environment()
    return environment


def test_cloud_metadata_is_asked_on_a_cluster_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a cluster the credentials of S3 come from there."""
    assert prepared(monkeypatch)["AWS_EC2_METADATA_DISABLED"] == "true"
    assert "AWS_EC2_METADATA_DISABLED" not in prepared(monkeypatch, RAY_ADDRESS="10.0.0.1:6379")


def test_a_local_session_has_a_token_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = {prepared(monkeypatch)["RAY_AUTH_TOKEN"] for _ in range(2)}
    assert len(tokens) == 2
    assert "RAY_AUTH_TOKEN" not in prepared(monkeypatch, RAY_ADDRESS="10.0.0.1:6379")
    assert prepared(monkeypatch, RAY_AUTH_TOKEN="mine")["RAY_AUTH_TOKEN"] == "mine"


@pytest.mark.parametrize("address", ["", "10.0.0.1:6379"])
def test_chatter_of_workers_is_left_out_and_errors_are_not(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    noise = prepared(monkeypatch, RAY_ADDRESS=address)["RAY_DEDUP_LOGS_SKIP_REGEX"]
    assert re.search(noise, "(MapWorker pid=1) Progress bars disabled. To enable, set ...")
    assert re.search(noise, "Reporting training result 3")
    assert not re.search(noise, "ValueError: the loss is not finite")
