"""Who is meant, and who may change something."""

from __future__ import annotations

import socket

import pytest
from fastapi.testclient import TestClient

from serve.hosts import check_sender, host_name, names_of
from serve.problems import ProblemError
from serve.store import ConversationStore

SEARCH = {"messages": [{"role": "user", "content": "a red apple"}], "num_candidates": 1}


@pytest.mark.parametrize("host", ["127.0.0.1:8000", "127.0.0.1", "[::1]:8000", "[::1]"])
def test_the_service_answers_to_its_own_names(client: TestClient, host: str) -> None:
    assert client.get("/healthz", headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example:8000", "127.0.0.1.evil.example", "evil.example", "", "[::2]", "localhost."]
)
@pytest.mark.parametrize("path", ["/", "/healthz", "/v1/galleries", "/v1/images/item-1", "/nowhere"])
def test_a_name_that_was_bent_to_this_machine_reads_nothing(client: TestClient, host: str, path: str) -> None:
    answer = client.get(path, headers={"host": host})
    assert answer.status_code == 421
    assert answer.json()["type"] == "urn:chatsearch:problem:unknown-host"
    assert "allowed_hosts" in answer.json()["action"]
    assert answer.json()["trace_id"] == answer.headers["x-trace-id"]


@pytest.mark.parametrize(
    "origin",
    ["https://evil.example", "http://127.0.0.1:3000", "http://localhost:8000", "null", "http://[", "http://[z]"],
)
def test_another_sites_page_changes_nothing(client: TestClient, store: ConversationStore, origin: str) -> None:
    path = client.post("/v1/conversations").headers["location"]
    for method, target in (("POST", "/v1/conversations"), ("POST", f"{path}/undo"), ("DELETE", path)):
        answer = client.request(method, target, headers={"origin": origin})
        assert answer.status_code == 403, (method, target)
        assert answer.json()["type"] == "urn:chatsearch:problem:foreign-origin"
    assert client.get(path, headers={"origin": origin}).status_code == 200, "reading is what the browser itself forbids"


def test_our_own_page_and_programs_without_a_page_may_change_things(client: TestClient) -> None:
    assert client.post("/v1/conversations", headers={"origin": "http://127.0.0.1:8000"}).status_code == 201
    assert client.post("/v1/search", json=SEARCH).status_code == 200


def test_a_gateways_name_has_to_be_named_or_all_allowed() -> None:
    headers = {b"host": b"Search.Example.org"}
    check_sender("GET", headers, ("search.example.org",))
    check_sender("GET", headers, ("*",))
    check_sender("POST", headers | {b"origin": b"https://search.example.org"}, ("*",))
    with pytest.raises(ProblemError, match=r"search\.example\.org"):
        check_sender("GET", headers, ("localhost",))
    with pytest.raises(ProblemError, match="may not change"):
        check_sender("POST", headers | {b"origin": b"https://other.example"}, ("*",))


@pytest.mark.parametrize(
    ("authority", "name"),
    [("A.example:80", "a.example"), ("a", "a"), ("[::1]:80", "::1"), ("::1", "::1"), ("10.0.0.1:8000", "10.0.0.1")],
)
def test_host_names_are_read_without_port_and_case(authority: str, name: str) -> None:
    assert host_name(authority) == name


def test_a_service_on_all_addresses_answers_to_the_machines_name() -> None:
    assert names_of("10.0.0.7") == ("10.0.0.7",)
    assert names_of("box.local") == ("box.local",)
    for everywhere in ("0.0.0.0", "::"):
        assert socket.gethostname() in names_of(everywhere)
        assert everywhere not in names_of(everywhere)
